"""A golden set to begin with: questions made up from the corpus itself, for a base that has none yet.

Known-item queries after Azzopardi, de Rijke and Balog, "Building simulated queries for known-item topics", SIGIR 2007:
a passage is drawn, and words of one of its sentences by how well they tell it from others. They show whether the index
finds what it holds, and not whether it answers what people ask.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import Any

_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n{2,}")
_WORD = re.compile(r"[^\W_][\w'’-]*")
#: Words of a sentence that is worth a question, and of the question.
_LEAST_WORDS, _ASKED = 6, (4, 8)


@dataclass(frozen=True)
class Passage:
    """A passage of a document."""

    source: str
    heading: str
    text: str


def simulated_questions(passages: Sequence[Passage], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Lines of a golden set, at most `count`, as many documents as can be; the same for the same seed."""
    chance = random.Random(seed)  # noqa: S311 (a sample, no secret)
    rarity = _rarity(passages)
    by_source: dict[str, list[Passage]] = {}
    for passage in passages:
        by_source.setdefault(passage.source, []).append(passage)
    for found in by_source.values():
        chance.shuffle(found)
    turns = [found[turn] for turn in range(max(map(len, by_source.values()), default=0))
             for found in by_source.values() if turn < len(found)]  # fmt: skip
    lines: list[dict[str, Any]] = []
    for passage in turns:
        if len(lines) == count:
            break
        if (line := _question(passage, rarity, chance)) is not None:
            lines.append(line)
    return lines


def _rarity(passages: Sequence[Passage]) -> dict[str, float]:
    """Inverse document frequency of each word, as in BM25."""
    count = len(passages)
    seen = Counter(word for passage in passages for word in {word.lower() for word in _words(passage.text)})
    return {word: log(1 + (count - held + 0.5) / (held + 0.5)) for word, held in seen.items()}


def _question(passage: Passage, rarity: dict[str, float], chance: random.Random) -> dict[str, Any] | None:
    sentences = [each.strip() for each in _SENTENCE.split(passage.text)]
    sentences = [each for each in sentences if len(set(_words(each.lower()))) >= _LEAST_WORDS]
    if not sentences:
        return None
    sentence = chance.choice(sentences)
    words = list(dict.fromkeys(_words(sentence)))
    # weighted, without putting back: Efraimidis and Spirakis, 2006
    drawn = sorted(words, key=lambda word: chance.random() ** (1 / rarity[word.lower()]), reverse=True)
    kept = set(drawn[: chance.randint(*_ASKED)])
    asked = " ".join(word for word in words if word in kept)
    about = passage.heading.rsplit(" > ", 1)[-1].strip("# ")
    return {
        "question": f"{about}: {asked}" if about else asked,
        "relevant": [{"source": passage.source, "text": sentence}],
        "bootstrap": True,
    }


def _words(text: str) -> list[str]:
    return _WORD.findall(text)
