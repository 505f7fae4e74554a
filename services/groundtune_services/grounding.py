"""From a chat request to a grounded one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from groundtune.retrieval.prompt import Message, ground, question_of
from groundtune.retrieval.search import Hit
from groundtune_services.knowledge import Knowledge
from groundtune_services.metrics import DEGRADED, RETRIEVAL_SECONDS

#: Tokens that stay free for an answer whose length the client leaves open.
_ANSWER_TOKENS = 256

#: Tokens that a chat template and the marks around passages add, generously.
_FRAME_TOKENS = 64


@dataclass(frozen=True)
class Grounding:
    """The messages to answer, and what was put into them."""

    messages: Sequence[Message]
    passages: Sequence[Sequence[Hit]] = ()
    corpora: Mapping[str, int] = field(default_factory=dict)
    context_tokens: int = 0
    retrieval_ms: float = 0.0
    degraded: bool = False


def context_budget(wanted: int, window: int, prompt_tokens: int, answer_tokens: int | None) -> int:
    """Tokens for passages: as many as are wanted, unless the chat and its answer need the room.

    Args:
        window: tokens of prompt and answer that the engine takes.
        answer_tokens: most tokens of the answer, None if the client leaves it open.
    """
    answer = min(answer_tokens or _ANSWER_TOKENS, window // 2)
    return max(0, min(wanted, window - prompt_tokens - answer - _FRAME_TOKENS))


async def grounded(
    knowledge: Knowledge,
    messages: Sequence[Message],
    *,
    tools: Sequence[Any],
    answer_tokens: int | None,
    instruction: str,
    window: int,
    count_tokens: Callable[[str], int],
) -> Grounding:
    """Search for what the last user message asks, and put the passages before the model.

    When retrieval fails, the chat stays as it is and `degraded` is set.
    """
    question = question_of(messages)
    if not question.strip():
        return Grounding(messages)
    found = await knowledge.retrieve(question)
    RETRIEVAL_SECONDS.observe(found.milliseconds / 1000)
    if found.degraded:
        DEGRADED.inc()
    prompt_tokens = count_tokens(instruction) + sum(
        count_tokens(json.dumps(each, ensure_ascii=False, default=str)) for each in (*messages, *tools)
    )
    wanted = sum(target.retrieval.max_context_tokens for target in knowledge.grounding)
    result = ground(
        messages,
        found.hits,
        instruction=instruction,
        max_context_tokens=context_budget(wanted, window, prompt_tokens, answer_tokens),
        count_tokens=count_tokens,
    )
    return Grounding(
        result.messages,
        result.passages,
        found.corpora,
        result.context_tokens,
        found.milliseconds,
        found.degraded,
    )
