"""Adapter versions in SQL: registered, promoted, rejected. All of it works on the caller's transaction."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select, update
from sqlalchemy.dialects.postgresql import insert

from groundtune.errors import GroundtuneError
from groundtune.registry.runs import notify
from groundtune.registry.tables import AdapterRow, AdapterState, DatasetRow, FineTuneJobRow
from groundtune.snapshots import FineTuneJobSnapshot


@dataclass(frozen=True)
class NewAdapter:
    """A version whose files are in place; `path` is relative to the artifact folder."""

    job_uid: str
    version: int
    name: str
    path: str
    recipe_hash: str
    dataset_hash: str
    provenance: dict[str, Any]
    run_id: UUID


def ensure_job(connection: Connection, snapshot: FineTuneJobSnapshot) -> None:
    """Its row, made if it isn't there."""
    row = {"uid": snapshot.uid, "namespace": snapshot.namespace, "name": snapshot.name}
    connection.execute(insert(FineTuneJobRow).values(row).on_conflict_do_nothing())


def record_dataset(
    connection: Connection, job_uid: str, content_hash: str, examples: int, tokens: int
) -> None:
    """Keep that the job has seen this content; the first time counts."""
    row = {"job_uid": job_uid, "hash": content_hash, "examples": examples, "tokens": tokens}
    connection.execute(insert(DatasetRow).values(row).on_conflict_do_nothing())


def promoted_adapter(connection: Connection, job_uid: str) -> AdapterRow | None:
    """What every deployment follows now."""
    return _newest(
        connection,
        AdapterRow.job_uid == job_uid,
        AdapterRow.version
        == select(FineTuneJobRow.promoted_version).where(FineTuneJobRow.uid == job_uid).scalar_subquery(),
    )


def adapter_of(
    connection: Connection, job_uid: str, dataset_hash: str, recipe_hash: str
) -> AdapterRow | None:
    """The newest version that was trained on this content with this recipe."""
    return _newest(
        connection,
        AdapterRow.job_uid == job_uid,
        AdapterRow.dataset_hash == dataset_hash,
        AdapterRow.recipe_hash == recipe_hash,
    )


def _newest(connection: Connection, *conditions: Any) -> AdapterRow | None:
    row = connection.execute(
        select(*AdapterRow.__table__.columns).where(*conditions).order_by(AdapterRow.version.desc()).limit(1)
    ).one_or_none()
    return None if row is None else AdapterRow(**row._mapping)


def next_version(connection: Connection, job_uid: str) -> int:
    """The number that a new version gets."""
    newest = connection.execute(
        select(func.max(AdapterRow.version)).where(AdapterRow.job_uid == job_uid)
    ).scalar_one()
    return 1 if newest is None else int(newest) + 1


def register(connection: Connection, adapter: NewAdapter) -> None:
    """Add a version, as a candidate."""
    connection.execute(insert(AdapterRow).values(state=AdapterState.CANDIDATE, **asdict(adapter)))
    notify(connection, adapter.job_uid)


def record_evaluation(connection: Connection, job_uid: str, version: int, evaluation: dict[str, Any]) -> None:
    """Keep the version's held-out results."""
    connection.execute(_version(job_uid, version).values(evaluation=evaluation))


def evaluations(connection: Connection, job_uid: str, measured_with: str) -> dict[int, dict[str, Any]]:
    """Held-out results that were measured in the same way, by version, newest first."""
    rows = connection.execute(
        select(AdapterRow.version, AdapterRow.evaluation)
        .where(AdapterRow.job_uid == job_uid, AdapterRow.evaluation["measuredWith"].astext == measured_with)
        .order_by(AdapterRow.version.desc())
    )
    return {row.version: row.evaluation for row in rows}


def set_state(connection: Connection, job_uid: str, version: int, state: AdapterState) -> None:
    """Mark a version that is not promoted as a candidate or rejected."""
    connection.execute(_version(job_uid, version).values(state=state))
    notify(connection, job_uid)


def promote(connection: Connection, job_uid: str, version: int) -> None:
    """Make every deployment follow this version: after its gates, by hand, or for a rollback.

    Raises:
        GroundtuneError: there is no such version, or its gates rejected it.
    """
    state = connection.execute(
        select(AdapterRow.state)
        .where(AdapterRow.job_uid == job_uid, AdapterRow.version == version)
        .with_for_update()
    ).scalar_one_or_none()
    if state is None:
        raise GroundtuneError(f"adapter version {version} does not exist", reason="VersionNotFound")
    if state == AdapterState.REJECTED:
        raise GroundtuneError(f"adapter version {version} did not pass its gates", reason="VersionRejected")
    connection.execute(
        update(AdapterRow)
        .where(AdapterRow.job_uid == job_uid, AdapterRow.state == AdapterState.PROMOTED)
        .values(state=AdapterState.SUPERSEDED)
    )
    connection.execute(
        _version(job_uid, version).values(state=AdapterState.PROMOTED, promoted_at=func.clock_timestamp())
    )
    connection.execute(
        update(FineTuneJobRow).where(FineTuneJobRow.uid == job_uid).values(promoted_version=version)
    )
    notify(connection, job_uid)


def _version(job_uid: str, version: int) -> Any:
    return update(AdapterRow).where(AdapterRow.job_uid == job_uid, AdapterRow.version == version)
