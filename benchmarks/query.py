"""How long a question takes, beside a bare vector query. `make bench-query`.

Both embed the question with the same model, on the same 100,000 passages and the same HNSW index. The bare query gives
back the ten nearest passages; ours, a hybrid search, joins nearest vectors and words. Passages are real text; their
vectors, and those of the questions, are drawn in clusters, as embedding so many would take an hour.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import AsyncConnection

from benchmarks import corpus, load, stack
from benchmarks.report import report
from groundtune.api.knowledge_base import Embedding, Retrieval
from groundtune.embedding import Embedder
from groundtune.registry.spaces import chunk_table
from groundtune.retrieval.corpus import Corpus, search_pool
from groundtune.retrieval.search import Options, Query, ask, search
from groundtune.settings import settings

_ROWS = 100_000
_QUESTIONS = 200
_TOP_K = 10

Connection = AsyncConnection[Any]
Ask = Callable[[str, NDArray[np.float32]], Awaitable[object]]


def main() -> None:
    texts, vectors = load.passages(_ROWS), load.unit_vectors(_ROWS)
    questions = [question.text for question in corpus.evaluation_questions()][:_QUESTIONS]
    questions = questions or [" ".join(text.split()[3:12]) for text in texts[:: _ROWS // _QUESTIONS]]
    asked = load.unit_vectors(len(questions), seed=1)
    with stack.database() as platform:
        space = load.ours(platform, texts, vectors).space
        found, recall = asyncio.run(
            _measure(platform.database_url, Corpus(space, 1, vectors.shape[1]), questions, asked)
        )
    rows, figures = [], {"recall_at_10": recall}
    for name, seconds in found.items():
        middle, late = (float(np.percentile(seconds, at)) * 1000 for at in (50, 95))
        rows.append([name, f"{middle:.1f}", f"{late:.1f}"])
        figures |= {f"{name.replace(' ', '_')}_p50_ms": middle, f"{name.replace(' ', '_')}_p95_ms": late}
    report(
        "query",
        f"{_ROWS:,} passages, {len(questions)} questions, embedding included",
        ["", "p50 ms", "p95 ms"],
        rows,
        figures,
        {
            "latency": figures["bare_p50_ms"] / figures["hybrid_p50_ms"],
            "latency_p95": figures["bare_p95_ms"] / figures["hybrid_p95_ms"],
        },
    )


async def _measure(
    url: str, where: Corpus, questions: Sequence[str], asked: NDArray[np.float32]
) -> tuple[dict[str, list[float]], float]:
    """Seconds of each question by each way, and the share of the nearest ten that the index finds."""
    embedder = Embedder(Embedding(), settings().models)
    table = chunk_table(where.space_id)
    nearest = f"SELECT id FROM {table} ORDER BY embedding <=> %s LIMIT {_TOP_K}"

    async with search_pool(url, 2) as pool, search_pool(url, 1) as single, single.connection() as own:
        await own.set_autocommit(True)

        async def embed(question: str, vector: NDArray[np.float32]) -> NDArray[np.float32]:
            await asyncio.to_thread(embedder.query, question)
            return vector

        async def bare(question: str, vector: NDArray[np.float32]) -> object:
            found = await embed(question, vector)
            return await (await own.execute(nearest, (found,))).fetchall()

        def ours(mode: str) -> Ask:
            retrieval = Retrieval.model_validate({"mode": mode})

            async def one(question: str, vector: NDArray[np.float32]) -> object:
                return await ask(
                    pool, Query(where, question, retrieval, Options(_TOP_K)), embed(question, vector)
                )

            return one

        ways: dict[str, Ask] = {"bare": bare, "vector": ours("vector"), "hybrid": ours("hybrid")}
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(2):  # the first round warms caches and plans
            for question, vector in zip(questions, asked, strict=True):
                for name, way in ways.items():  # in turns, so that none has the quieter machine
                    began = time.perf_counter()
                    await way(question, vector)
                    if round_:
                        seconds[name].append(time.perf_counter() - began)
        async with pool.connection() as connection:
            recall = await _recall(connection, where, asked)
    return seconds, recall


async def _recall(connection: Connection, where: Corpus, asked: NDArray[np.float32]) -> float:
    """Of the ten nearest by exact search, the share that a search in mode vector gives."""
    retrieval = Retrieval.model_validate({"mode": "vector"})
    exact = (
        "SELECT d.uri, c.start_offset FROM (SELECT id, document_id, start_offset FROM "
        f"{chunk_table(where.space_id)} ORDER BY embedding <=> %s LIMIT {_TOP_K}) c "
        "JOIN groundtune.documents d ON d.id = c.document_id"
    )
    shares = []
    for vector in asked[:50]:
        async with connection.transaction():
            await connection.execute("SET LOCAL enable_indexscan = off")
            wanted = set(await (await connection.execute(exact, (vector,))).fetchall())
        hits = await search(connection, Query(where, "", retrieval, Options(_TOP_K)), vector)
        shares.append(len(wanted & {(hit.source, hit.start) for hit in hits}) / len(wanted))
    return float(np.mean(shares))


if __name__ == "__main__":
    main()
