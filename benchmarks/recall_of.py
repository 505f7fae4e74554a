"""Recall of reference characters: how much of the text that answers a question is in what came back."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from benchmarks.corpus import Question

#: A passage: the document's file name, and the span of it.
Passage = tuple[str, int, int]


def recall_of(question: Question, found: Sequence[Passage]) -> float:
    """Share of the question's reference characters that the passages hold.

    As in Smith and Troynikov, "Evaluating Chunking Strategies for Retrieval", Chroma, 2024.
    """
    wanted = {at for start, end in question.spans for at in range(start, end)}
    held: set[int] = set()
    for source, start, end in found:
        if source == question.source:
            held.update(wanted.intersection(range(start, end)))
    return len(held) / len(wanted)


def mean_recall(questions: Sequence[Question], found: Sequence[Sequence[Passage]]) -> float:
    """Its mean."""
    return fmean(recall_of(question, passages) for question, passages in zip(questions, found, strict=True))
