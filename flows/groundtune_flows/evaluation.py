"""Retrieval quality of a corpus version on a golden set, and the gate.

The measures are those of Manning, Raghavan and Schütze, "Introduction to Information Retrieval", chapter 8, over
the expected passages of each question; nDCG after Järvelin and Kekäläinen, "Cumulated gain-based evaluation of IR
techniques", TOIS 20(4), 2002. All are means over the questions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import log2
from statistics import fmean
from typing import TYPE_CHECKING, Any

from sqlalchemy import Engine, text

from groundtune.api.knowledge_base import Retrieval, RetrievalGates
from groundtune.retrieval.corpus import Corpus, search_pool
from groundtune.retrieval.search import RANKING, Hit, Options, Query, Rerank, search
from groundtune_flows.golden import Golden, Place, Question, place

if TYPE_CHECKING:
    from groundtune.embedding import Embedder


@dataclass(frozen=True)
class Scores:
    """Of one question, or the means of many; each from 0 to 1."""

    recall: float
    precision: float
    mrr: float
    ndcg: float


@dataclass(frozen=True)
class Asked:
    """A question, what came back, and how good that was."""

    question: Question
    places: list[Place]
    hits: list[Hit]
    scores: Scores


def score(found: Sequence[frozenset[int]], expected: int, k: int) -> Scores:
    """Scores of one ranking.

    recall@k: share of the expected passages that the first k hits hold. precision@k: share of k that the hits with
    an expected passage make up. MRR: 1 / rank of the first of them. nDCG@k: every expected passage gains
    1 / log2(1 + rank) at the first hit that holds it, over the gain of the best possible order; at most 1, as one
    hit may hold several.

    Args:
        found: for each hit, best first, the numbers of the expected passages that it holds.
        expected: how many passages are expected, at least 1.
    """
    first = found[:k]
    ranks: dict[int, int] = {}
    for rank, held in enumerate(first, start=1):
        for number in held:
            ranks.setdefault(number, rank)
    best = sum(1 / log2(1 + rank) for rank in range(1, min(expected, k) + 1))
    return Scores(
        recall=len(ranks) / expected,
        precision=sum(1 for held in first if held) / k,
        mrr=1 / min(ranks.values()) if ranks else 0.0,
        ndcg=min(1.0, sum(1 / log2(1 + rank) for rank in ranks.values()) / best),
    )


def mean(scores: Sequence[Scores]) -> Scores:
    """Their means."""
    return Scores(
        recall=fmean(one.recall for one in scores),
        precision=fmean(one.precision for one in scores),
        mrr=fmean(one.mrr for one in scores),
        ndcg=fmean(one.ndcg for one in scores),
    )


def failed_gates(scores: Scores, live: Scores | None, gates: RetrievalGates, k: int) -> list[str]:
    """One line for each gate that the scores don't pass; `live` are those of the live version, if there is one."""
    lines = [
        f"{name}@{k} {value:.3f} is below {gate} {least:g}"
        for name, value, gate, least in (
            ("recall", scores.recall, "minRecall", gates.min_recall),
            ("precision", scores.precision, "minPrecision", gates.min_precision),
            ("MRR", scores.mrr, "minMRR", gates.min_mrr),
        )
        if least is not None and value < least
    ]
    if gates.max_regression is not None and live is not None:
        fall = live.recall - scores.recall
        # what floating point adds to a fall of exactly the allowed size must not fail it
        if fall > gates.max_regression + 1e-9:
            lines.append(
                f"recall@{k} {scores.recall:.3f} is {fall:.3f} below the live version's {live.recall:.3f}, "
                f"more than maxRegression {gates.max_regression:g}"
            )
    return lines


def measured_with(golden: Golden, k: int, retrieval: Retrieval) -> str:
    """Identity of all that scores depend on besides the corpus: equal ones can be compared and reused."""
    own = retrieval.model_dump(mode="json", exclude={"top_k", "max_context_tokens"})
    facts = [golden.hash, k, own, RANKING]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


async def ask(
    database_url: str,
    engine: Engine,
    corpus: Corpus,
    golden: Golden,
    embedder: Embedder,
    retrieval: Retrieval,
    k: int,
    rerank: Rerank | None = None,
) -> list[Asked]:
    """Put every question to the version, through the search that serves."""
    expected = find_places(engine, corpus, golden)
    vectors = embedder.queries([question.question for question in golden.questions])
    answered: list[Asked] = []
    async with search_pool(database_url, size=1) as pool, pool.connection() as connection:
        for question, places, vector in zip(golden.questions, expected, vectors, strict=True):
            hits = await search(
                connection, Query(corpus, question.question, retrieval, Options(k)), vector, rerank
            )
            found = [
                frozenset(
                    number for number, one in enumerate(places) if one.holds(hit.source, hit.start, hit.end)
                )
                for hit in hits
            ]
            answered.append(Asked(question, places, hits, score(found, len(places), k)))
    return answered


def find_places(engine: Engine, corpus: Corpus, golden: Golden) -> list[list[Place]]:
    """For each question, where its expected passages stand in the version."""
    ends = sorted(
        {relevant.source.lstrip("/") for question in golden.questions for relevant in question.relevant}
    )
    statement = text(
        "SELECT e.source, d.uri, d.text FROM unnest(CAST(:ends AS text[])) AS e (source) "
        "JOIN groundtune.documents d ON d.uri = e.source OR right(d.uri, length(e.source) + 1) = '/' || e.source "
        "WHERE d.space_id = :space AND d.valid_from <= :version AND (d.valid_to IS NULL OR d.valid_to > :version)"
    )
    documents: dict[str, list[tuple[str, str]]] = {}
    with engine.connect() as connection:
        values = {"ends": ends, "space": corpus.space_id, "version": corpus.version}
        for end, uri, content in connection.execute(statement, values):
            documents.setdefault(end, []).append((uri, content))
    return [
        [place(relevant, documents.get(relevant.source.lstrip("/"), [])) for relevant in question.relevant]
        for question in golden.questions
    ]


def worst(asked: Sequence[Asked], limit: int = 20) -> list[dict[str, Any]]:
    """Rows of the questions that went worst: asked, expected, got."""
    ranked = sorted(asked, key=lambda one: (one.scores.recall, one.scores.mrr, one.scores.ndcg))
    return [
        {
            "question": one.question.question,
            "expected": "; ".join(
                _expectation(*pair) for pair in zip(one.question.relevant, one.places, strict=True)
            ),
            "got": "; ".join(f"{hit.source.rsplit('/', 1)[-1]} {hit.start}-{hit.end}" for hit in one.hits)
            or "nothing",
            "recall": round(one.scores.recall, 3),
            "rank": round(1 / one.scores.mrr) if one.scores.mrr else None,
        }
        for one in ranked[:limit]
        if one.scores.mrr < 1 or one.scores.recall < 1
    ]


def _expectation(relevant: Any, found: Place) -> str:
    wanted = f"{relevant.source}: {relevant.text}" if relevant.text else str(relevant.source)
    if not found.spans:
        return f"{wanted} (no such document in the corpus)"
    if not any(spans is None or spans for spans in found.spans.values()):
        return f"{wanted} (the document doesn't say this)"
    return wanted
