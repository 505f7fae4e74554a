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
    """A chat with passages put in.

    Args:
        passages: what went in, in the order of its numbers; neighbours in a document are one passage.
        context_tokens: that they take.
    """

    messages: list[Message]
    passages: list[list[Hit]]
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

    They are taken in rank order, up to the first that does not fit, so that the same question gets the same prompt
    prefix; then those that adjoin in a document are put together, as they stand there. Without any, the messages stay
    as they are.
    """
    used: list[Hit] = []
    tokens = 0
    for hit in hits:
        tokens += count_tokens(f"[{len(used) + 1}] {_as_data([hit])}")
        if tokens > max_context_tokens:
            break
        used.append(hit)
    if not used:
        return Grounded(list(messages), [], 0)
    passages = neighbours(used)
    lines = [f"[{number}] {_as_data(passage)}" for number, passage in enumerate(passages, start=1)]
    context = "\n".join([instruction, "", _OPEN, *lines, _CLOSE])
    rest = list(messages)
    if rest and rest[0].get("role") == "system" and isinstance(rest[0].get("content"), str):
        context = f"{rest.pop(0)['content']}\n\n{context}"
    whole = [{"role": "system", "content": context}, *rest]
    return Grounded(whole, passages, sum(map(count_tokens, lines)))


def neighbours(hits: Sequence[Hit]) -> list[list[Hit]]:
    """Passages that follow each other in a document together, in its order; each where its best one was."""
    place = {(hit.source, hit.version, hit.ordinal): hit for hit in hits}
    found: list[list[Hit]] = []
    taken: set[tuple[str, int, int]] = set()
    for hit in hits:
        source, version, first = hit.source, hit.version, hit.ordinal
        if (source, version, first) in taken:
            continue
        while (source, version, first - 1) in place:
            first -= 1
        run: list[Hit] = []
        while (key := (source, version, first + len(run))) in place:
            run.append(place[key])
            taken.add(key)
        found.append(run)
    return found


def _as_data(passage: Sequence[Hit]) -> str:
    """One paragraph that can't close the block it stands in; what overlaps is said once."""
    pieces: list[str] = []
    end = 0
    for hit in passage:
        pieces.append(hit.text[max(0, end - hit.start) if pieces else 0 :])
        end = hit.end
    text = " ".join(" ".join(pieces).split())
    for mark in (_OPEN, _CLOSE):
        text = text.replace(mark, mark.replace("<", "‹").replace(">", "›"))
    return text
