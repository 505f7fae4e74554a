"""What the registry knows about many resources at once: a fixed number of statements, whatever their number."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, or_, select, text
from sqlalchemy.orm import aliased

from groundtune.api.common import RunCost
from groundtune.registry.spaces import chunk_table
from groundtune.registry.tables import (
    AdapterRow,
    CorpusVersionRow,
    FineTuneJobRow,
    KnowledgeBaseRow,
    RunRow,
    RunState,
    SpaceRow,
    VersionState,
)

#: Newest runs that are read of a resource.
RUNS_READ = 10


@dataclass(frozen=True)
class RunFacts:
    """A flow run as it recorded itself."""

    id: UUID
    generation: int
    reason: str
    state: RunState
    progress: dict[str, Any]
    result: dict[str, Any]
    error_reason: str | None
    error_message: str | None
    seconds: float
    started_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True)
class CorpusFacts:
    """The live version.

    `recipe`: what its space was made with, which an edited spec may no longer say. `answers`: its chunk table gave
    back a passage that is visible in it. `evaluation`: its scores as they were measured last. `newer`: the newest
    version that was live after it, which it was rolled back from.
    """

    version: int
    space_id: int
    documents: int
    chunks: int
    tokens: int
    recipe: dict[str, Any] = field(default_factory=dict)
    answers: bool = False
    evaluation: dict[str, Any] | None = None
    newer: int | None = None


@dataclass(frozen=True)
class AdapterFacts:
    """An adapter version. `path` is relative to the artifact folder."""

    version: int
    name: str
    state: str
    path: str
    run_id: UUID
    created_at: datetime
    promoted_at: datetime | None


@dataclass(frozen=True)
class ResourceFacts:
    """Everything that the registry holds about a resource; the defaults stand for nothing yet.

    `runs` are the newest, newest first. `last_success` and `last_evaluated` may be older than they reach;
    `last_evaluated` is the newest run whose result holds an evaluation. `locked`: a run holds the resource's lock
    now, which goes when its process does.
    """

    runs: tuple[RunFacts, ...] = ()
    last_success: RunFacts | None = None
    last_evaluated: RunFacts | None = None
    cost: RunCost = field(default_factory=RunCost)
    locked: bool = False
    live: CorpusFacts | None = None
    promoted: AdapterFacts | None = None
    latest: AdapterFacts | None = None
    adapters: dict[UUID, int] = field(default_factory=dict)


def read_facts(connection: Connection, uids: Sequence[str]) -> dict[str, ResourceFacts]:
    """Facts of every given resource, by uid; each uid gets an entry."""
    if not uids:
        return {}
    locked = _locked(connection, uids)
    runs = _newest_runs(connection, uids)
    success = _newest_run_each(connection, uids, RunRow.state.in_([RunState.SUCCEEDED, RunState.UNCHANGED]))
    evaluated = _newest_run_each(connection, uids, func.jsonb_typeof(RunRow.result["evaluation"]) == "object")
    costs = _costs(connection, uids)
    live = _live_versions(connection, uids)
    promoted, latest = _adapters(connection, uids)
    made = _adapters_of_runs(connection, [run.id for found in runs.values() for run in found])
    facts = {}
    for uid in uids:
        own = runs.get(uid, ())
        facts[uid] = ResourceFacts(
            runs=own,
            last_success=success.get(uid),
            last_evaluated=evaluated.get(uid),
            cost=costs.get(uid, RunCost()),
            locked=uid in locked,
            live=live.get(uid),
            promoted=promoted.get(uid),
            latest=latest.get(uid),
            adapters={run.id: made[run.id] for run in own if run.id in made},
        )
    return facts


def run_lock(uid: str) -> str:
    """What a run locks while it works, hashed by `hashtextextended(…, 0)`: one run a resource."""
    return f"groundtune:{uid}"


def _locked(connection: Connection, uids: Sequence[str]) -> set[str]:
    """Resources whose lock is held. Postgres shows the lock's 64-bit key as two halves."""
    rows = connection.execute(
        text(
            "SELECT uid FROM unnest(CAST(:uids AS text[]), CAST(:keys AS text[])) AS wanted (uid, key) "
            "JOIN pg_locks ON locktype = 'advisory' AND objsubid = 1 AND granted "
            "AND (classid::bigint << 32 | objid::bigint) = hashtextextended(key, 0) "
            "JOIN pg_database ON pg_database.oid = pg_locks.database AND datname = current_database()"
        ),
        {"uids": list(uids), "keys": [run_lock(uid) for uid in uids]},
    )
    return set(rows.scalars())


def _run(row: RunRow) -> RunFacts:
    return RunFacts(
        id=row.id,
        generation=row.generation,
        reason=row.reason,
        state=RunState(row.state),
        progress=row.progress,
        result=row.result,
        error_reason=row.error_reason,
        error_message=row.error_message,
        seconds=row.seconds,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


def _newest_runs(connection: Connection, uids: Sequence[str]) -> dict[str, tuple[RunFacts, ...]]:
    rank = func.row_number().over(partition_by=RunRow.resource_uid, order_by=RunRow.started_at.desc())
    ranked = select(RunRow.__table__, rank.label("rank")).where(RunRow.resource_uid.in_(uids)).subquery()
    newest = aliased(RunRow, ranked)
    rows = connection.execute(
        select(ranked)
        .where(ranked.c.rank <= RUNS_READ)
        .order_by(newest.resource_uid, newest.started_at.desc())
    )
    found: dict[str, list[RunFacts]] = {}
    for row in rows:
        found.setdefault(row.resource_uid, []).append(_run(row))  # type: ignore[arg-type]
    return {uid: tuple(each) for uid, each in found.items()}


def _newest_run_each(connection: Connection, uids: Sequence[str], condition: Any) -> dict[str, RunFacts]:
    rows = connection.execute(
        select(RunRow.__table__)
        .distinct(RunRow.resource_uid)
        .where(RunRow.resource_uid.in_(uids), condition)
        .order_by(RunRow.resource_uid, RunRow.started_at.desc())
    )
    return {row.resource_uid: _run(row) for row in rows}  # type: ignore[arg-type]


def _costs(connection: Connection, uids: Sequence[str]) -> dict[str, RunCost]:
    """Of all runs; where the prices' currency has changed, the amount is that of the one with the most runs."""
    rows = connection.execute(
        select(
            RunRow.resource_uid,
            func.sum(func.sum(RunRow.tokens)).over(partition_by=RunRow.resource_uid),
            func.sum(func.sum(RunRow.seconds)).over(partition_by=RunRow.resource_uid),
            func.sum(RunRow.amount),
            RunRow.currency,
        )
        .where(RunRow.resource_uid.in_(uids))
        .group_by(RunRow.resource_uid, RunRow.currency)
        .order_by(RunRow.currency != "", func.count())
    )
    return {
        uid: RunCost(
            tokens=int(tokens), seconds=round(seconds, 1), amount=round(amount, 6), currency=currency
        )
        for uid, tokens, seconds, amount, currency in rows  # the last one of a resource stays
    }


def _live_versions(connection: Connection, uids: Sequence[str]) -> dict[str, CorpusFacts]:
    later = aliased(CorpusVersionRow)
    newer = (
        select(func.max(later.version))
        .where(
            later.kb_uid == KnowledgeBaseRow.uid,
            later.version > KnowledgeBaseRow.live_version,
            later.state == VersionState.SUPERSEDED,
        )
        .scalar_subquery()
    )
    rows = connection.execute(
        select(KnowledgeBaseRow.uid, CorpusVersionRow.__table__, SpaceRow.recipe, newer.label("newer"))
        .join(
            CorpusVersionRow,
            (CorpusVersionRow.kb_uid == KnowledgeBaseRow.uid)
            & (CorpusVersionRow.version == KnowledgeBaseRow.live_version),
        )
        .join(SpaceRow, SpaceRow.id == CorpusVersionRow.space_id)
        .where(KnowledgeBaseRow.uid.in_(uids))
    ).all()
    answering = _answering(connection, [(row.uid, row.space_id, row.version) for row in rows])
    return {
        row.uid: CorpusFacts(
            version=row.version,
            space_id=row.space_id,
            documents=row.documents,
            chunks=row.chunks,
            tokens=row.tokens,
            recipe=row.recipe,
            answers=row.uid in answering,
            evaluation=row.evaluation,
            newer=row.newer,
        )
        for row in rows
    }


def _answering(connection: Connection, corpora: Iterable[tuple[str, int, int]]) -> set[str]:
    """Which of (uid, space, version) give back a visible passage; a table that is gone answers nothing."""
    wanted = {chunk_table(space): (uid, version) for uid, space, version in corpora}
    if not wanted:
        return set()
    there = connection.execute(
        text("SELECT name FROM unnest(CAST(:tables AS text[])) AS name WHERE to_regclass(name) IS NOT NULL"),
        {"tables": list(wanted)},
    ).scalars()
    probes: list[str] = []
    values: dict[str, Any] = {}
    for number, table in enumerate(there):
        uid, version = wanted[table]
        values |= {f"uid{number}": uid, f"version{number}": version}
        probes.append(
            f"(SELECT CAST(:uid{number} AS text) FROM {table} WHERE valid_from <= :version{number} "
            f"AND (valid_to IS NULL OR valid_to > :version{number}) LIMIT 1)"
        )
    if not probes:
        return set()
    return set(connection.execute(text(" UNION ALL ".join(probes)), values).scalars())


def _adapter(row: Any) -> AdapterFacts:
    return AdapterFacts(
        version=row.version,
        name=row.name,
        state=row.state,
        path=row.path,
        run_id=row.run_id,
        created_at=row.created_at,
        promoted_at=row.promoted_at,
    )


def _adapters(
    connection: Connection, uids: Sequence[str]
) -> tuple[dict[str, AdapterFacts], dict[str, AdapterFacts]]:
    """Promoted and newest adapter version of every job."""
    newest = (
        select(AdapterRow.job_uid, func.max(AdapterRow.version).label("version"))
        .where(AdapterRow.job_uid.in_(uids))
        .group_by(AdapterRow.job_uid)
        .subquery()
    )
    rows = connection.execute(
        select(
            AdapterRow.__table__, FineTuneJobRow.promoted_version, newest.c.version.label("newest_version")
        )
        .join(newest, newest.c.job_uid == AdapterRow.job_uid)
        .join(FineTuneJobRow, FineTuneJobRow.uid == AdapterRow.job_uid)
        .where(
            or_(AdapterRow.version == newest.c.version, AdapterRow.version == FineTuneJobRow.promoted_version)
        )
    )
    promoted, latest = {}, {}
    for row in rows:
        if row.version == row.promoted_version:
            promoted[row.job_uid] = _adapter(row)
        if row.version == row.newest_version:
            latest[row.job_uid] = _adapter(row)
    return promoted, latest


def _adapters_of_runs(connection: Connection, run_ids: Sequence[UUID]) -> dict[UUID, int]:
    rows = connection.execute(
        select(AdapterRow.run_id, AdapterRow.version).where(AdapterRow.run_id.in_(run_ids))
    )
    return {row.run_id: row.version for row in rows}
