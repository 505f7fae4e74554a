"""From passages to a grounded prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from groundtune.retrieval.search import Hit

Message = dict[str, Any]

_OPEN, _CLOSE = "<passages>", "</passages>"


@dataclass(frozen=True)
class Grounded:
    """A chat with passages put in, which of them went in, and how many tokens they take."""

    messages: list[Message]
    used: list[Hit]
    context_tokens: int


def question_of(messages: Sequence[Message]) -> str:
    """What to search for: the text of the last user message; empty if there is none."""
    for message in reversed(messages):
        if message.get("role") == "user":
            content = message.get("content") or ""
            if isinstance(content, str):
                return content
            return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return ""


def ground(
    messages: Sequence[Message],
    hits: Sequence[Hit],
    *,
    instruction: str,
    max_context_tokens: int,
    count_tokens: Callable[[str], int],
) -> Grounded:
    """Put the best passages that fit the budget into the system message, delimited and numbered.

    They are kept in rank order and stop at the first that does not fit, so that the same question gets the
    same prompt prefix. Without any, the messages stay as they are.
    """
    used: list[Hit] = []
    lines: list[str] = []
    tokens = 0
    for hit in hits:
        line = f"[{len(used) + 1}] {_as_data(hit)}"
        cost = count_tokens(line)
        if tokens + cost > max_context_tokens:
            break
        used.append(hit)
        lines.append(line)
        tokens += cost
    if not used:
        return Grounded(list(messages), [], 0)
    context = "\n".join([instruction, "", _OPEN, *lines, _CLOSE])
    rest = list(messages)
    if rest and rest[0].get("role") == "system" and isinstance(rest[0].get("content"), str):
        context = f"{rest.pop(0)['content']}\n\n{context}"
    return Grounded([{"role": "system", "content": context}, *rest], used, tokens)


def _as_data(hit: Hit) -> str:
    """One paragraph that can't close the block it stands in."""
    text = " ".join(hit.text.split())
    for mark in (_OPEN, _CLOSE):
        text = text.replace(mark, mark.replace("<", "‹").replace(">", "›"))
    return text
