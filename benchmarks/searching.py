"""Our side of a question: the code that serves, with a knowledge base's own settings."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.stack import Platform
from groundtune.api.knowledge_base import Retrieval
from groundtune.embedding import Embedder
from groundtune.retrieval.search import Hit, embedding_of, live_corpus, search, search_pool
from groundtune.settings import settings


async def ask_all(
    platform: Platform, uid: str, questions: Sequence[str], retrieval: Retrieval, top_k: int | None = None
) -> list[list[Hit]]:
    """The hits of each question, from the version that is live."""
    async with search_pool(platform.database_url, size=1) as pool, pool.connection() as connection:
        corpus = await live_corpus(connection, uid)
        if corpus is None:
            raise RuntimeError("nothing is live")
        embedder = Embedder(await embedding_of(connection, corpus), settings().models)
        vectors = embedder.queries(questions)
        return [
            await search(connection, corpus, question, vector, retrieval, top_k)
            for question, vector in zip(questions, vectors, strict=True)
        ]
