"""What both flows share: a run's record in the registry, its lock, its progress."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from uuid import UUID, uuid4

import psycopg
from prefect import get_run_logger
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect.runtime import flow_run
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError

from groundtune.costs import Prices, prices
from groundtune.errors import GroundtuneError
from groundtune.models import has_gpu
from groundtune.registry.database import connect
from groundtune.registry.facts import run_lock
from groundtune.registry.runs import Cost, RunError, finish_run, report_progress, start_run
from groundtune.registry.tables import RunState
from groundtune.settings import settings
from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot

Result = TypeVar("Result")

_PROGRESS_SECONDS = 5.0
#: Seconds that a run takes before it shows its progress in Prefect.
_SHOWN_SECONDS = 3.0
_LOCK_SECONDS = 10.0

_PREFECT_LOGGERS = ("prefect.flow_runs", "prefect.engine")

#: One, so that the newest of tables of one key is written last.
_WRITER = ThreadPoolExecutor(1, thread_name_prefix="tables")
#: Prefect's functions take the caller of an asynchronous flow for one, too.
_SYNC: dict[str, Any] = {"_sync": True}

Logger = logging.Logger | logging.LoggerAdapter[Any]


@dataclass
class Run:
    """A flow run under way. `state`, `result`, `tokens` and `charged` (money) are recorded when it ends."""

    id: UUID
    engine: Engine
    snapshot: KnowledgeBaseSnapshot | FineTuneJobSnapshot
    logger: Logger
    state: RunState = RunState.SUCCEEDED
    result: dict[str, Any] = field(default_factory=dict)
    tokens: int = 0
    charged: float = 0.0
    _artifact: UUID | None = None
    _began: float = field(default_factory=time.monotonic)
    _stage: str = ""
    _tables: list[Future[Any]] = field(default_factory=list)
    _reported: float = 0.0

    def artifact_key(self, what: str) -> str:
        """Key of a Prefect artifact of this resource: the newest one of a key shows, the older ones stay."""
        return f"{self.snapshot.namespace}-{self.snapshot.name}-{what}".replace(".", "-").lower()

    def progress(self, stage: str, *, percent: float = 0.0, **facts: Any) -> None:
        """Say where the run stands; writes at most every five seconds within a stage."""
        now = time.monotonic()
        if stage == self._stage and now - self._reported < _PROGRESS_SECONDS and percent < 100:
            return
        if stage != self._stage:
            self.logger.info("%s", stage)
        self._stage, self._reported = stage, now
        percent = min(100.0, max(0.0, percent))
        with self.engine.begin() as connection:
            report_progress(connection, self.id, {"stage": stage, "percent": int(percent), **facts})
        if now - self._began < _SHOWN_SECONDS:
            return  # who would look at it? what it costs is a good part of such a run
        if self._artifact is None:
            created = create_progress_artifact(
                progress=percent, key=self.artifact_key("progress"), description=stage, **_SYNC
            )
            self._artifact = created if isinstance(created, UUID) else None
        else:
            update_progress_artifact(self._artifact, progress=percent, description=stage, **_SYNC)

    def table(self, what: str, rows: list[dict[str, Any]], description: str) -> None:
        """A table artifact of this resource, written while the run goes on."""
        key = self.artifact_key(what)
        write = partial(create_table_artifact, table=rows, key=key, description=description, **_SYNC)
        self._tables.append(_WRITER.submit(copy_context().run, write))

    def finish_tables(self) -> None:
        """Wait until they are written. What can't be is only missed by who looks at it."""
        for table in self._tables:
            if (error := table.exception()) is not None:
                self.logger.warning("a table could not be written: %s", error)
        self._tables.clear()


@contextmanager
def recorded_run(snapshot: KnowledgeBaseSnapshot | FineTuneJobSnapshot, reason: str) -> Iterator[Run]:
    """The run's record: started on entry; ended on exit, with the reason and one line if it failed.

    A run that is cancelled or killed stays recorded as running: Prefect knows better how it ended.

    Raises:
        GroundtuneError: another run of the same resource is at work (reason AlreadyRunning).
    """
    for name in _PREFECT_LOGGERS:
        logging.getLogger(name).addFilter(_without_trace)
    engine = connect(settings().database_url.get_secret_value())
    run = Run(UUID(str(flow_run.get_id() or uuid4())), engine, snapshot, get_run_logger())
    try:
        with engine.begin() as connection:
            start_run(connection, run.id, snapshot, reason)
        known: Prices | None = None
        try:
            known = prices()
            with _exclusive(engine, snapshot):
                try:
                    yield run
                finally:
                    run.finish_tables()
        except Exception as error:
            failure = failure_of(error)
            run.logger.error("%s: %s", failure.reason, failure.message)
            # without the database there is nowhere to record it; Prefect still gets the error itself
            with suppress(OperationalError), engine.begin() as connection:
                finish_run(connection, run.id, RunState.FAILED, error=failure, **_used(run, known))
            raise
        with engine.begin() as connection:
            finish_run(connection, run.id, run.state, **_used(run, known))
    finally:
        engine.dispose()


def _used(run: Run, known: Prices | None) -> dict[str, Any]:
    cost = Cost()
    if known is not None:
        cost = Cost(known.currency, (known.gpu_hour or 0.0) if has_gpu() else known.cpu_hour, run.charged)
    return {"result": run.result, "tokens": run.tokens, "cost": cost}


def _without_trace(record: logging.LogRecord) -> bool:
    """Prefect logs a failed run with its trace; an error that was written for a person needs none."""
    if record.exc_info and isinstance(record.exc_info[1], GroundtuneError):
        record.exc_info = None
    return True


def finished(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """What a coroutine gives, run in a loop of its own, as the flow itself may be in one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


def failure_of(error: Exception) -> RunError:
    """Reason and one line of whatever ended a run."""
    if isinstance(error, GroundtuneError):
        return RunError(error.reason, " ".join(str(error).split()))
    lines = str(error).strip().splitlines()
    line = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    cause = getattr(error, "orig", error)  # SQLAlchemy wraps the driver's own, but not those of COPY
    if isinstance(cause, psycopg.Error):
        # what can't be written for other reasons than a full disk comes with the same hint
        if isinstance(cause, psycopg.errors.DiskFull) or "disk space" in (cause.diag.message_hint or ""):
            return RunError("DatabaseFull", line)
        if isinstance(cause, psycopg.OperationalError | psycopg.InterfaceError):
            return RunError("DatabaseUnavailable", line)
    if isinstance(error, MemoryError) or "not enough memory" in line or "out of memory" in line:
        return RunError("OutOfMemory", line)
    return RunError(GroundtuneError.reason, line)


@contextmanager
def _exclusive(engine: Engine, snapshot: KnowledgeBaseSnapshot | FineTuneJobSnapshot) -> Iterator[None]:
    """One run a resource. The lock is the database session's, so that it goes when the process does."""
    key = {"key": run_lock(snapshot.uid)}
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        deadline = time.monotonic() + _LOCK_SECONDS
        lock = text("SELECT pg_try_advisory_lock(hashtextextended(:key, 0))")
        while not connection.execute(lock, key).scalar_one():
            # the database may take a moment to notice that a killed run is gone
            if time.monotonic() > deadline:
                raise GroundtuneError(
                    f"another run of {snapshot.kind} {snapshot.namespace}/{snapshot.name} is at work",
                    reason="AlreadyRunning",
                )
            time.sleep(0.5)
        try:
            yield
        finally:
            with suppress(OperationalError):
                connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:key, 0))"), key)
