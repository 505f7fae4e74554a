"""What a run is told: an immutable copy of the spec, so that an edit meanwhile can't change it under way."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from groundtune.api import FineTuneJobSpec, KnowledgeBaseSpec
from groundtune.api.common import ApiModel


class Snapshot(ApiModel):
    """The resource that a run is for. It holds no secret: it is shown in the Prefect UI."""

    namespace: str
    name: str
    uid: str
    generation: int = Field(ge=1)


class KnowledgeBaseSnapshot(Snapshot):
    """Parameter `snapshot` of the flow `refresh-knowledge-base`."""

    kind: Literal["KnowledgeBase"] = "KnowledgeBase"
    spec: KnowledgeBaseSpec


class FineTuneJobSnapshot(Snapshot):
    """Parameter `snapshot` of the flow `fine-tune`."""

    kind: Literal["FineTuneJob"] = "FineTuneJob"
    spec: FineTuneJobSpec
