"""The registry in Postgres: batched facts, wake-ups, and the removal of a corpus."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import TypeVar

import psycopg
from psycopg import sql
from sqlalchemy import Engine, delete, select, text
from sqlalchemy.exc import SQLAlchemyError

from groundtune.registry import corpora
from groundtune.registry.database import CHANNEL, connect, migrate
from groundtune.registry.facts import ResourceFacts, read_facts
from groundtune.registry.spaces import drop_tables
from groundtune.registry.tables import KnowledgeBaseRow, SpaceRow
from groundtune_operator.clients.http import BackendError

A = TypeVar("A")
R = TypeVar("R")


class Registry:
    """Every method raises `BackendError` when Postgres does not answer."""

    def __init__(self, url: str, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._engine: Engine | None = None
        self._lock = asyncio.Lock()

    async def close(self) -> None:
        """Give the connections back."""
        if self._engine is not None:
            await asyncio.to_thread(self._engine.dispose)

    async def facts(self, uids: Sequence[str]) -> dict[str, ResourceFacts]:
        """What is known about the resources, by uid."""
        return await self._run(_read, uids)

    async def delete_corpus(self, uid: str) -> None:
        """Remove all versions of a knowledge base, its documents and its chunk tables."""
        await self._run(_delete_corpus, uid)

    async def roll_back(self, uid: str, version: int) -> None:
        """Make a version of a knowledge base live that was live before.

        Raises:
            GroundtuneError: there is no such version any more.
        """
        await self._run(_roll_back, (uid, version))

    async def changes(self) -> AsyncIterator[str]:
        """Uids of resources whose facts have changed, as they change; the first, empty, says that it listens."""
        try:
            async with await psycopg.AsyncConnection.connect(
                self._url, autocommit=True, connect_timeout=max(2, int(self._timeout))
            ) as connection:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(CHANNEL)))
                yield ""
                async for notification in connection.notifies():
                    yield notification.payload
        except psycopg.Error as error:
            raise BackendError(_reason(error)) from error

    async def _run(self, work: Callable[[Engine, A], R], argument: A) -> R:
        try:
            async with self._lock:
                if self._engine is None:
                    self._engine = await asyncio.to_thread(_open, self._url)
            return await asyncio.to_thread(work, self._engine, argument)
        except (SQLAlchemyError, psycopg.Error) as error:
            raise BackendError(_reason(error)) from error


def _open(url: str) -> Engine:
    """An engine for a registry that has its schema."""
    engine = connect(url)
    migrate(url)
    return engine


def _read(engine: Engine, uids: Sequence[str]) -> dict[str, ResourceFacts]:
    with engine.connect() as connection:
        return read_facts(connection, uids)


def _delete_corpus(engine: Engine, uid: str) -> None:
    with engine.begin() as connection:
        for space in connection.execute(select(SpaceRow.id).where(SpaceRow.kb_uid == uid)).scalars().all():
            for statement in drop_tables(space):
                connection.execute(text(statement))
        connection.execute(delete(KnowledgeBaseRow).where(KnowledgeBaseRow.uid == uid))


def _roll_back(engine: Engine, wanted: tuple[str, int]) -> None:
    with engine.begin() as connection:
        corpora.roll_back(connection, *wanted)


def _reason(error: Exception) -> str:
    """The database's own words, without the statement and without the address, which may hold a password."""
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines() or [type(original).__name__]
    return f"Postgres: {lines[0]}"
