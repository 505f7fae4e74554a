"""Questions put to what is live, many at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from groundtune.api.knowledge_base import Retrieval
from groundtune.embedding import Embedder
from groundtune.retrieval.search import Hit, embedding_of, live_corpus, search, search_pool


async def ask_live(
    url: str,
    kb_uid: str,
    questions: Sequence[str],
    settings: Retrieval,
    models: Path,
    top_k: int | None = None,
) -> list[list[Hit]] | None:
    """The hits of each question, in order, from the version that is live now; None if none is.

    Args:
        url: of the database.
        models: folder of converted and downloaded models.
        top_k: most hits of a question; the settings' by default.

    Raises:
        ModelError: the model that the corpus was made with can't be loaded.
    """
    async with search_pool(url, size=1) as pool, pool.connection() as connection:
        corpus = await live_corpus(connection, kb_uid)
        if corpus is None:
            return None
        embedder = Embedder(await embedding_of(connection, corpus), models)
        vectors = embedder.queries(questions)
        return [
            await search(connection, corpus, question, vector, settings, top_k)
            for question, vector in zip(questions, vectors, strict=True)
        ]
