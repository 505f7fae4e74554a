"""A run's own record: started, where it stands, how it ended. Every write wakes whoever listens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from groundtune.registry.database import CHANNEL
from groundtune.registry.tables import RunRow, RunState
from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot


@dataclass(frozen=True)
class RunError:
    """Why a run failed: a stable CamelCase reason, and one clear line."""

    reason: str
    message: str


@dataclass(frozen=True)
class Cost:
    """Of a run: its machine's price an hour, and what others have charged for it."""

    currency: str = ""
    hourly: float = 0.0
    charged: float = 0.0


def notify(connection: Connection, uid: str) -> None:
    """Tell listeners, once this transaction commits, that facts about the resource changed."""
    connection.execute(text("SELECT pg_notify(:channel, :uid)"), {"channel": CHANNEL, "uid": uid})


def start_run(
    connection: Connection, run_id: UUID, snapshot: KnowledgeBaseSnapshot | FineTuneJobSnapshot, reason: str
) -> None:
    """Record that the run runs; a run that was killed and resumed keeps its first start."""
    row = {
        "id": run_id,
        "kind": snapshot.kind,
        "resource_uid": snapshot.uid,
        "namespace": snapshot.namespace,
        "name": snapshot.name,
        "generation": snapshot.generation,
        "reason": reason,
        "state": RunState.RUNNING,
    }
    again = {"state": RunState.RUNNING, "error_reason": None, "error_message": None, "finished_at": None}
    connection.execute(insert(RunRow).values(row).on_conflict_do_update(index_elements=["id"], set_=again))
    notify(connection, snapshot.uid)


def report_progress(connection: Connection, run_id: UUID, progress: dict[str, Any]) -> None:
    """Replace the run's progress: `stage`, and for training step, totalSteps, percent, loss, etaSeconds."""
    uid = connection.execute(
        update(RunRow).where(RunRow.id == run_id).values(progress=progress).returning(RunRow.resource_uid)
    ).scalar_one()
    notify(connection, uid)


def finish_run(
    connection: Connection,
    run_id: UUID,
    state: RunState,
    *,
    result: dict[str, Any] | None = None,
    tokens: int = 0,
    cost: Cost | None = None,
    error: RunError | None = None,
) -> None:
    """Record how the run ended and what it used (`tokens` embedded or trained on)."""
    cost = cost or Cost()
    seconds = func.extract("epoch", func.clock_timestamp() - RunRow.started_at)
    uid = connection.execute(
        update(RunRow)
        .where(RunRow.id == run_id)
        .values(
            state=state,
            result=result or {},
            error_reason=error.reason if error else None,
            error_message=error.message if error else None,
            tokens=RunRow.tokens + tokens,
            seconds=seconds,
            amount=RunRow.amount + seconds / 3600 * cost.hourly + cost.charged,
            currency=cost.currency,
            finished_at=func.clock_timestamp(),
        )
        .returning(RunRow.resource_uid)
    ).scalar_one()
    notify(connection, uid)


def last_finished(connection: Connection, resource_uid: str) -> RunRow | None:
    """The resource's newest run that ended, if any."""
    return connection.execute(
        select(RunRow)
        .where(RunRow.resource_uid == resource_uid, RunRow.state != RunState.RUNNING)
        .order_by(RunRow.finished_at.desc())
        .limit(1)
    ).scalar_one_or_none()
