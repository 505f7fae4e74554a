"""Which corpus is searched, and the connections for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pgvector.psycopg import register_vector_async
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from groundtune.api.knowledge_base import Embedding, Storage

Connection = AsyncConnection[Any]
Pool = AsyncConnectionPool[Connection]


@dataclass(frozen=True)
class Corpus:
    """One version of a corpus, and the space that holds it.

    Args:
        dimensions: of its vectors, and of its questions'.
    """

    space_id: int
    version: int
    dimensions: int
    storage: Storage = "vector"


def search_pool(url: str, size: int = 4) -> Pool:
    """Connections for `search`; open it before use. A lost connection is replaced by itself."""
    return AsyncConnectionPool(
        url,
        min_size=1,
        max_size=size,
        open=False,
        reconnect_timeout=5,  # then each request tries anew, instead of waiting out a growing pause
        configure=_configure,
        check=AsyncConnectionPool.check_connection,
    )


async def _configure(connection: Connection) -> None:
    await register_vector_async(connection)
    await connection.commit()


async def live_corpus(connection: Connection, kb_uid: str) -> tuple[Corpus, Embedding] | None:
    """What is live now, or None before the first version is.

    The model is the one that its vectors were made with, which may not be the one that is declared now.
    """
    cursor = await connection.execute(
        "SELECT s.id, v.version, s.dimensions, coalesce(s.recipe ->> 'storage', 'vector'), s.recipe -> 'embedding' "
        "FROM groundtune.knowledge_bases k "
        "JOIN groundtune.corpus_versions v ON v.kb_uid = k.uid AND v.version = k.live_version "
        "JOIN groundtune.spaces s ON s.id = v.space_id WHERE k.uid = %s",
        (kb_uid,),
    )
    row = await cursor.fetchone()
    return None if row is None else (Corpus(*row[:4]), Embedding.model_validate(row[4]))
