"""Search of one corpus version: vector, full text, or both joined by reciprocal rank fusion."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.rows import class_row

from groundtune.api.knowledge_base import Retrieval
from groundtune.embedding import Vectors
from groundtune.retrieval import statements
from groundtune.retrieval.corpus import Connection, Corpus, Pool
from groundtune.retrieval.filters import Comparison, Compound, condition
from groundtune.retrieval.statements import Wanted

#: Raise it when the same settings would rank in another way, so that stored scores are measured anew.
RANKING = 2

_FUSION_K = 60
_CANDIDATES = 50
#: Documents and passages of a filter up to which all of them are looked at, instead of going through an index.
_FEW_DOCUMENTS, _FEW_PASSAGES = 2000, 20_000
#: Passages that a question is moved towards, and its own weight then.
_FEEDBACK_PASSAGES, _QUESTION_WEIGHT = 3, 0.6
#: Rows that the HNSW index goes through for one filtered question before all are looked at.
_SCANNED = 40_000

#: Function of a question and passages that gives each one's score, from 0 to 1.
Rerank = Callable[[str, Sequence[str]], Awaitable[Sequence[float] | NDArray[np.float32]]]
#: Ids of passages with their scores, best first.
Ranking = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Hit:
    """A passage.

    Args:
        start, end: characters of the document; `text` is exactly what stands there.
        score: what it is ranked by: 1 in hybrid search is the first of both lists; the reranker's, where there is one.
        page: of a document that has such, counted from 1.
        ordinal: place among the document's passages.
        similarity: cosine of its vector and the question's.
        attributes: of its document.
    """

    source: str
    start: int
    end: int
    text: str
    heading: str
    score: float
    version: int
    page: int | None = None
    ordinal: int = 0
    similarity: float = 0.0
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The form that every search and every citation of Groundtune gives it."""
        found = {
            "source": self.source,
            "start": self.start,
            "end": self.end,
            "text": self.text,
            "score": self.score,
            "similarity": self.similarity,
            "version": self.version,
        }
        return found if self.page is None else found | {"page": self.page}


@dataclass(frozen=True)
class Options:
    """What one search may ask for beyond a knowledge base's settings.

    Args:
        top_k: most passages; the settings' by default.
        min_score: least similarity of a passage; the settings' by default.
        filter: which documents' passages come into question.
    """

    top_k: int | None = None
    min_score: float | None = None
    filter: Comparison | Compound | None = None


NO_OPTIONS = Options()


@dataclass(frozen=True)
class Query:
    """A question to one corpus version."""

    corpus: Corpus
    text: str
    settings: Retrieval
    options: Options = NO_OPTIONS

    @property
    def limit(self) -> int:
        """Most passages."""
        return self.options.top_k or self.settings.top_k

    @property
    def least(self) -> float | None:
        """Least similarity of a passage."""
        return self.settings.min_score if self.options.min_score is None else self.options.min_score

    @property
    def candidates(self) -> int:
        """Passages of each list before they are joined."""
        reranked = self.settings.reranker.candidates if self.settings.reranker else 0
        return max(_CANDIDATES, self.limit, reranked)


async def search(
    connection: Connection, query: Query, vector: Vectors, rerank: Rerank | None = None
) -> list[Hit]:
    """The best passages, best first.

    Args:
        vector: the question's embedding by the corpus's own model, shape (dimensions,).
        rerank: the settings' reranker, where they have one.
    """
    wanted = await _wanted(connection, query)
    words = await _by_words(connection, query, wanted)
    near = await _by_vector(connection, query, wanted, vector)
    near = await _expanded(connection, query, wanted, near, words, vector)
    return await _reranked(query, await _passages(connection, query, near, words, vector), rerank)


async def ask(
    pool: Pool, query: Query, embedding: Coroutine[Any, Any, Vectors], rerank: Rerank | None = None
) -> list[Hit]:
    """The same, on connections of its own, both halves side by side: words are looked for while the vector is computed.

    No connection is held longer than it is used: there are fewer of them than questions under load.
    """

    async def words() -> tuple[Wanted, Ranking]:
        async with pool.connection() as connection:
            wanted = await _wanted(connection, query)
            choice.set_result(wanted)
            return wanted, await _by_words(connection, query, wanted)

    async def near() -> tuple[Vectors, Ranking]:
        vector, wanted = await embedding, await choice
        async with pool.connection() as connection:
            return vector, await _by_vector(connection, query, wanted, vector)

    choice: asyncio.Future[Wanted] = asyncio.get_running_loop().create_future()
    halves = asyncio.create_task(near()), asyncio.create_task(words())
    try:
        (vector, nearest), (wanted, matching) = await asyncio.gather(*halves)
    finally:
        for half in halves:
            half.cancel()
    async with pool.connection() as connection:
        nearest = await _expanded(connection, query, wanted, nearest, matching, vector)
        hits = await _passages(connection, query, nearest, matching, vector)
    return await _reranked(query, hits, rerank)


async def _reranked(query: Query, hits: list[Hit], rerank: Rerank | None) -> list[Hit]:
    if query.settings.reranker is None:
        return hits
    assert rerank is not None, "the settings name a reranker"
    scores = await rerank(query.text, [f"{hit.heading}\n{hit.text}".strip() for hit in hits])
    least = query.least or 0.0
    scored = [
        replace(hit, score=float(score)) for hit, score in zip(hits, scores, strict=True) if score >= least
    ]
    return sorted(scored, key=lambda hit: -hit.score)[: query.limit]


async def _by_words(connection: Connection, query: Query, wanted: Wanted) -> Ranking:
    if query.settings.mode == "vector":
        return []
    async with connection.transaction():
        cursor = await connection.execute(statements.words(query.corpus), {"question": query.text})
        found = await cursor.fetchall()
        if not found:
            return []
        values: dict[str, Any] = {f"word_{number}": word for number, (word, *_) in enumerate(found)}
        values |= {f"weight_{number}": weight for number, (_, weight, *_) in enumerate(found)}
        values |= {
            **wanted.values,
            "version": query.corpus.version,
            "candidates": query.candidates,
            "mean": found[0][3],
            "drivers": statements.drivers([(word, upto) for word, _, upto, _ in found], wanted),
        }
        return await _ranking(connection, statements.matching(query.corpus, wanted, len(found)), values)


async def _passages(
    connection: Connection, query: Query, near: Ranking, words: Ranking, vector: Vectors
) -> list[Hit]:
    """What both halves have found, joined."""
    ranking = {"vector": near, "lexical": words, "hybrid": fuse(near, words)}[query.settings.mode]
    reranker = query.settings.reranker
    limit = query.limit if reranker is None else max(query.limit, reranker.candidates)
    least = query.least if reranker is None else None
    if least is None:
        ranking = ranking[:limit]
    values = {
        "version": query.corpus.version,
        "vector": vector,
        "ids": [id_ for id_, _ in ranking],
        "scores": [score for _, score in ranking],
        "least": least,
        "limit": limit,
    }
    async with connection.cursor(row_factory=class_row(Hit)) as cursor:
        await cursor.execute(statements.passages(query.corpus), values)
        return await cursor.fetchall()


def fuse(*rankings: Ranking) -> Ranking:
    """Reciprocal rank fusion, after Cormack, Clarke and Büttcher, SIGIR 2009.

    A passage scores Σ 1 / (60 + rank) over the lists that hold it, as a share of what the first of all would have.
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (id_, _) in enumerate(ranking, start=1):
            scores[id_] = scores.get(id_, 0.0) + (_FUSION_K + 1) / (_FUSION_K + rank) / len(rankings)
    return sorted(scores.items(), key=lambda scored: (-scored[1], scored[0]))


async def _wanted(connection: Connection, query: Query) -> Wanted:
    """What a query's filter takes."""
    if query.options.filter is None:
        return Wanted()
    made = condition(query.options.filter)
    statement = statements.matching_documents(query.corpus, made.sql, _FEW_DOCUMENTS)
    cursor = await connection.execute(statement, made.values | {"version": query.corpus.version})
    documents, passages = await cursor.fetchone() or ((), 0)
    if len(documents or ()) <= _FEW_DOCUMENTS and passages <= _FEW_PASSAGES:
        return statements.of_listed(documents or [])
    return statements.of_documents(made.sql, made.values)


async def _by_vector(connection: Connection, query: Query, wanted: Wanted, vector: Vectors) -> Ranking:
    if query.settings.mode == "lexical":
        return []
    async with connection.transaction():
        return await _nearest(connection, query, wanted, vector)


async def _nearest(connection: Connection, query: Query, wanted: Wanted, vector: Vectors) -> Ranking:
    values = {
        **wanted.values,
        "version": query.corpus.version,
        "vector": vector,
        "candidates": query.candidates,
    }
    looked_at = max(query.settings.ef_search, statements.oversampling(query.corpus) * query.candidates)
    async with connection.pipeline():
        # a filter means to go on through the index until enough are found
        await connection.execute(
            "SELECT set_config('hnsw.ef_search', %s, true), set_config('hnsw.iterative_scan', 'strict_order', true), "
            "set_config('hnsw.max_scan_tuples', %s, true)",
            (str(looked_at), str(_SCANNED)),
        )
        found = await _ranking(connection, statements.nearest(query.corpus, wanted), values)
    if wanted.few or query.options.filter is None or len(found) >= query.candidates:
        return found
    # what it takes is all far from the question: the index has given up before it came to it
    return await _ranking(connection, statements.nearest(query.corpus, replace(wanted, few=True)), values)


async def _expanded(
    connection: Connection, query: Query, wanted: Wanted, near: Ranking, words: Ranking, vector: Vectors
) -> Ranking:
    """The passages nearest to the question moved towards what it found first, where the settings ask for that.

    Rocchio's relevance feedback, with vectors and without a person (Rocchio, in "The SMART Retrieval System", 1971).
    """
    best = (fuse(near, words) if query.settings.mode == "hybrid" else near)[:_FEEDBACK_PASSAGES]
    if query.settings.expansion == "none" or query.settings.mode == "lexical" or not best:
        return near
    cursor = await connection.execute(statements.middle(query.corpus), {"ids": [id_ for id_, _ in best]})
    (found,) = await cursor.fetchone() or (None,)
    if found is None:
        return near
    moved = _QUESTION_WEIGHT * vector + (1 - _QUESTION_WEIGHT) * found.to_numpy()
    return await _by_vector(connection, query, wanted, moved / np.linalg.norm(moved))


async def _ranking(connection: Connection, statement: str, values: Mapping[str, Any]) -> Ranking:
    cursor = await connection.execute(statement, values)
    return [(int(id_), float(score)) for id_, score in await cursor.fetchall()]
