"""Questions put to what is live, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groundtune.api.knowledge_base import Retrieval
from groundtune.embedding import CrossEncoder, Embedder
from groundtune.retrieval.corpus import live_corpus, search_pool
from groundtune.retrieval.search import NO_OPTIONS, Hit, Options, Query, search


async def ask_live(
    url: str,
    kb_uid: str,
    questions: Sequence[str],
    settings: Retrieval,
    models: Path,
    options: Options = NO_OPTIONS,
) -> list[list[Hit]] | None:
    """The hits of each question, in order, from the version that is live now; None if none is.

    Args:
        url: of the database.
        models: folder of converted and downloaded models.

    Raises:
        ModelError: the model that the corpus was made with, or the reranker, can't be loaded.
    """
    async with search_pool(url, size=1) as pool, pool.connection() as connection:
        live = await live_corpus(connection, kb_uid)
        if live is None:
            return None
        corpus, embedding = live
        embedder = Embedder(embedding, models)
        rerank = CrossEncoder(settings.reranker, models).rerank if settings.reranker is not None else None
        vectors = embedder.queries(questions)
        return [
            await search(connection, Query(corpus, question, settings, options), vector, rerank)
            for question, vector in zip(questions, vectors, strict=True)
        ]
