"""What each answered request used, written to the registry in batches and never waited for."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import astuple, dataclass, fields

import psycopg
from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from groundtune_services.metrics import USAGE_DROPPED

_log = logging.getLogger(__name__)

_BATCH = 500
_WAITING = 10_000
_SECONDS_BETWEEN = 1.0
_WRITE_SECONDS = 5.0


@dataclass(frozen=True)
class Usage:
    """A row of `groundtune.usage`; the columns of the same names."""

    namespace: str
    deployment: str
    model: str
    adapter: str | None
    corpus_version: int | None
    prompt_tokens: int
    completion_tokens: int
    context_tokens: int
    retrieval_ms: float | None
    first_token_ms: float | None


_COLUMNS = [field.name for field in fields(Usage)]
_INSERT = f"INSERT INTO groundtune.usage ({', '.join(_COLUMNS)}) VALUES ({', '.join(['%s'] * len(_COLUMNS))})"


class UsageWriter:
    """Rows that can't be written are dropped, counted and warned of: usage never costs an answer."""

    def __init__(self, pool: AsyncConnectionPool[AsyncConnection[tuple[object, ...]]]) -> None:
        self._pool = pool
        self._rows: asyncio.Queue[Usage] = asyncio.Queue(_WAITING)
        self._task = asyncio.create_task(self._run(), name="usage")

    def record(self, row: Usage) -> None:
        try:
            self._rows.put_nowait(row)
        except asyncio.QueueFull:
            USAGE_DROPPED.inc()

    async def close(self) -> None:
        """Write what is left."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._flush()

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN)
            await self._flush()

    async def _flush(self) -> None:
        while batch := self._taken():
            try:
                async with asyncio.timeout(_WRITE_SECONDS), self._pool.connection() as connection:
                    await connection.cursor().executemany(_INSERT, [astuple(row) for row in batch])
            except (psycopg.Error, PoolTimeout, TimeoutError, OSError) as error:
                USAGE_DROPPED.inc(len(batch))
                _log.warning("%d usage rows dropped: %s", len(batch), error or "the database does not answer")

    def _taken(self) -> list[Usage]:
        return [self._rows.get_nowait() for _ in range(min(_BATCH, self._rows.qsize()))]
