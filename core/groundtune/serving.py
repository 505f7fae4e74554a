"""What the operator tells a Serve application.

`EngineArgs` are the application's arguments: a change rebuilds it. `ServedSet` is its `user_config`: a change
reaches every replica through `reconfigure()`, without a restart and without a dropped request.
`Readiness` is what it answers at `/ready`, which is all that `Ready` is ever read from.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from groundtune.api.common import ApiModel
from groundtune.api.inference_deployment import Engine, Prompt, Resources, ServedModel
from groundtune.api.knowledge_base import Embedding, Retrieval


class EngineArgs(ApiModel):
    """Arguments of the application builder `groundtune_services.app:build`."""

    namespace: str
    name: str
    model: ServedModel
    engine: Engine
    resources: Resources
    min_replicas: int
    max_replicas: int
    target_ongoing_requests: int

    @property
    def served_name(self) -> str:
        """The `model` that clients ask for."""
        return self.model.served_name or self.name


class AdapterTarget(ApiModel):
    """The adapter version that an alias should point to."""

    alias: str
    name: str = Field(description="Immutable version name, `{job}-v{n}`.")
    path: str = Field(description="Folder, relative to the artifact folder.")


class KnowledgeTarget(ApiModel):
    """A knowledge base to read; which version is live is read from the registry at each search."""

    name: str
    uid: str
    mode: Literal["always", "off"]
    embedding: Embedding
    retrieval: Retrieval


class Unmet(ApiModel):
    """What is declared and can't be served yet: nothing of that name is there, or it has no version.

    Args:
        answers: whether answers would carry it.
    """

    kind: Literal["adapter", "knowledge base"]
    name: str
    answers: bool = True


class ServedSet(ApiModel):
    """`user_config` of the deployment."""

    adapters: list[AdapterTarget] = Field(default_factory=list)
    knowledge_bases: list[KnowledgeTarget] = Field(default_factory=list)
    unmet: list[Unmet] = Field(default_factory=list)
    prompt: Prompt = Field(default_factory=lambda: Prompt())


class AdapterReadiness(ApiModel):
    """`name` is the version that answers now (empty: none); it stays the old one while a new one loads."""

    alias: str
    name: str
    state: Literal["Loading", "Loaded", "Failed"]
    message: str = ""


class KnowledgeReadiness(ApiModel):
    """`version` is the one that a probe search has just read; None: nothing is live, or it failed."""

    name: str
    version: int | None
    message: str = ""


class Readiness(ApiModel):
    """Body of `/ready`, status 200 when `ready` and 503 when not."""

    ready: bool
    models: list[str]
    adapters: list[AdapterReadiness]
    knowledge_bases: list[KnowledgeReadiness]
    message: str = ""
