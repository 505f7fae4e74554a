"""What a grounded answer says about its passages."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from groundtune.retrieval.search import Hit

#: Extra top-level field of an answer, and of the first event of a stream.
FIELD = "groundtune"

_EVENT = "data: "


def corpus_label(corpora: Mapping[str, int]) -> str:
    """`name@version` of each knowledge base that was read, or `none`."""
    return ",".join(f"{name}@{version}" for name, version in corpora.items()) or "none"


def annotation(
    adapter: str | None, corpora: Mapping[str, int], passages: Sequence[Sequence[Hit]]
) -> dict[str, Any]:
    """Value of the extra field; a citation's `index` is its number in the prompt, which neighbours share."""
    return {
        "adapter": adapter or "none",
        "corpus": corpus_label(corpora),
        "citations": [
            {"index": number, **hit.as_json()}
            for number, passage in enumerate(passages, start=1)
            for hit in passage
        ],
    }


def headers(
    adapter: str | None,
    corpora: Mapping[str, int],
    *,
    retrieval_ms: float,
    context_tokens: int,
    lacking: Sequence[str],
) -> dict[str, str]:
    """Response headers of a chat completion; `lacking` is what it should have had."""
    found = {
        "x-groundtune-adapter": adapter or "none",
        "x-groundtune-corpus": corpus_label(corpora),
        "x-groundtune-retrieval-ms": f"{retrieval_ms:.1f}",
        "x-groundtune-context-tokens": str(context_tokens),
    }
    if lacking:
        found["x-groundtune-degraded"] = ",".join(lacking)
    return found


def annotate_event(event: str, value: Mapping[str, Any]) -> str:
    """The same server-sent event with the extra field; as it is if it carries no answer."""
    if not event.startswith(_EVENT + "{"):
        return event
    body = json.loads(event[len(_EVENT) :])
    if "error" in body:
        return event
    return f"{_EVENT}{json.dumps({**body, FIELD: value}, ensure_ascii=False)}\n\n"
