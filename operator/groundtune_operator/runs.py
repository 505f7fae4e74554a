"""What to do about runs, decided from what is known of them. No I/O, no clock of its own.

A run's record in the registry says what it did; Prefect says whether it lives. Where they disagree, a run that
Prefect has ended counts as failed. A retry's idempotency key names the run that it retries, so that neither a
restart of the operator nor a lost answer can start it twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Literal
from uuid import UUID

from groundtune.registry.facts import RUNS_READ, RunFacts
from groundtune.registry.tables import RunState
from groundtune_operator.clients.prefect import PrefectRun
from groundtune_operator.reasons import Reason

#: How long the registry and Prefect may disagree about a run: each is read on its own.
GRACE = timedelta(seconds=15)
RETRY = "retry"

_ENDED = {
    "FAILED": (Reason.RUN_FAILED, "the run failed"),
    "CRASHED": (Reason.RUN_CRASHED, "the run's process died"),
    "CANCELLED": (Reason.RUN_CANCELLED, "the run was cancelled"),
    "COMPLETED": (Reason.RUN_LOST, "the run ended without recording how"),
}
#: Reasons for which a run can be tried again as it is: the cause is not in the spec.
_TRANSIENT = {
    Reason.RUN_FAILED,
    Reason.RUN_CRASHED,
    Reason.RUN_CANCELLED,
    Reason.RUN_LOST,
    "InternalError",
    "AlreadyRunning",
    "DatabaseFull",
    "DatabaseUnavailable",
    "EmbeddingUnavailable",
    "OutOfMemory",
    "",
}


@dataclass(frozen=True)
class Run:
    """A run, as the registry and Prefect together have it.

    Args:
        late: due for a while, and no worker has taken it.
        zombie: over, though Prefect takes it to run, and keeps its place in the queue.
    """

    id: UUID
    generation: int
    reason: str
    state: Literal["Pending", "Running", "Succeeded", "Unchanged", "Failed"]
    started: datetime
    finished: datetime | None = None
    error: str = ""
    message: str = ""
    late: bool = False
    zombie: bool = False

    @property
    def active(self) -> bool:
        return self.state in ("Pending", "Running")


def combine(
    recorded: Iterable[RunFacts],
    known: Mapping[UUID, PrefectRun],
    lost: Set[UUID],
    silent: Mapping[UUID, datetime],
    now: datetime,
    patience: timedelta,
) -> list[Run]:
    """A resource's runs, newest first.

    Args:
        known: what Prefect says of its runs.
        lost: recorded runs that Prefect was asked for, and does not know.
        silent: recorded runs that give no sign of life, and since when.
        patience: time of silence after which a run counts as dead.
    """
    found = []
    for run in recorded:
        end = _end(run, known.get(run.id), run.id in lost, silent.get(run.id), now, patience)
        found.append(_recorded(run, end, known.get(run.id)))
    there = {run.id for run in found}
    found += [_unrecorded(run) for run in known.values() if run.id not in there and run.state != "COMPLETED"]
    return sorted(found, key=lambda run: run.started, reverse=True)


_STATES: dict[RunState, Literal["Running", "Succeeded", "Unchanged", "Failed"]] = {
    RunState.RUNNING: "Running",
    RunState.SUCCEEDED: "Succeeded",
    RunState.UNCHANGED: "Unchanged",
    RunState.FAILED: "Failed",
}


@dataclass(frozen=True)
class _End:
    """Why and when a run ended that has not recorded it itself."""

    reason: str
    message: str
    at: datetime


def _recorded(run: RunFacts, end: _End | None, known: PrefectRun | None) -> Run:
    if end is not None:
        zombie = known is not None and not known.terminal
        return Run(
            run.id,
            run.generation,
            run.reason,
            "Failed",
            run.started_at,
            end.at,
            end.reason,
            end.message,
            zombie=zombie,
        )
    return Run(
        id=run.id,
        generation=run.generation,
        reason=run.reason,
        state=_STATES[run.state],
        started=run.started_at,
        finished=run.finished_at,
        error=run.error_reason or "",
        message=run.error_message or "",
    )


def _end(
    run: RunFacts,
    known: PrefectRun | None,
    lost: bool,
    since: datetime | None,
    now: datetime,
    patience: timedelta,
) -> _End | None:
    """How a run that is recorded as running is over all the same; None if it is not."""
    if run.state is not RunState.RUNNING:
        return None
    if known is None:
        if not lost or now - run.started_at < GRACE:
            return None
        text = f"Prefect knows nothing of run {run.id}, which never recorded its end"
        return _End(Reason.RUN_LOST, text, run.started_at)
    if known.terminal:
        ended = known.ended or known.due
        if now - ended < GRACE:
            return None
        reason, text = _ENDED[known.state]
        return _End(reason, known.message or text, ended)
    if since is not None and now - since > patience:
        text = f"the run's process is gone: no sign of life since {since:%H:%M:%S} UTC"
        return _End(Reason.RUN_LOST, text, since)
    return None


def _unrecorded(run: PrefectRun) -> Run:
    started = run.started or run.due
    if run.terminal:
        reason, text = _ENDED[run.state]
        message = run.message or text
        return Run(run.id, run.generation, run.reason, "Failed", started, run.ended, reason, message)
    if run.orphaned:
        text = "the worker that was to start the run is gone"
        return Run(
            run.id,
            run.generation,
            run.reason,
            "Failed",
            started,
            run.changed,
            Reason.RUN_LOST,
            text,
            zombie=True,
        )
    pending = run.state in ("SCHEDULED", "PENDING")
    return Run(
        run.id, run.generation, run.reason, "Pending" if pending else "Running", started, late=run.late
    )


@dataclass(frozen=True)
class Trigger:
    """A run to start. `reason` is told to the flow; `key` makes it unique under the resource and generation."""

    reason: str
    key: str


class Phase(Enum):
    """Where the runs of a resource stand."""

    IDLE = "idle"
    PENDING = "pending"
    RUNNING = "running"
    RETRYING = "retrying"
    STALLED = "stalled"


@dataclass(frozen=True)
class Policy:
    """How failures are retried.

    Args:
        attempts: attempts in all when the cause is not in the spec.
        base: seconds to the second attempt; they double after.
        gate: seconds until a version that missed its gates is tried again; None: not before something changes.
    """

    attempts: int
    base: float
    gate: float | None


@dataclass(frozen=True)
class Plan:
    """What to do now, and what to say. `failure` is the newest failure that nothing has mended yet."""

    phase: Phase
    trigger: Trigger | None = None
    current: Run | None = None
    failure: Run | None = None
    attempt: int = 0
    retry_at: datetime | None = None


def plan(
    runs: Sequence[Run], *, live: bool, changed: bool, request: str, policy: Policy, now: datetime
) -> Plan:
    """Decide about the runs of one resource.

    Args:
        runs: as `combine` gives them, newest first.
        live: whether something is live, which an earlier life of Prefect may have made.
        changed: whether the part of the spec that a run depends on differs from what was last run.
        request: value of the request annotation if it has not been acted on, else empty.
    """
    active = sorted((run for run in runs if run.active), key=lambda run: run.state != "Running")
    current = active[0] if active else None
    ended = [run for run in runs if not run.active]
    failure = ended[0] if ended and ended[0].state == "Failed" else None
    attempt = _attempts(ended)
    trigger = _wanted(runs, live=live, changed=changed, request=request)
    if trigger is not None or current is not None:
        phase = _phase_of(current, failure, policy, attempt)
        return Plan(phase, trigger, current, failure, attempt)
    if failure is None:
        return Plan(Phase.IDLE)
    delay = _delay(failure, attempt, policy)
    if delay is None:
        return Plan(Phase.STALLED, failure=failure, attempt=attempt)
    retry_at = (failure.finished or failure.started) + timedelta(seconds=delay)
    phase = Phase.RETRYING if transient(failure) else Phase.STALLED
    if now < retry_at:
        return Plan(phase, failure=failure, attempt=attempt, retry_at=retry_at)
    return Plan(
        phase, Trigger(RETRY, f"{RETRY}-{failure.id}"), failure=failure, attempt=attempt, retry_at=retry_at
    )


def transient(failure: Run) -> bool:
    """Whether the cause is not in the spec, so that the same run may succeed."""
    return failure.error in _TRANSIENT


def _wanted(runs: Sequence[Run], *, live: bool, changed: bool, request: str) -> Trigger | None:
    """A run that is wanted for its own sake, not to retry another."""
    if request:
        return Trigger("requested", f"requested-{request}")
    if changed:
        return Trigger("changed", "changed")
    if not runs and not live:
        return Trigger("created", "created")
    return None


def _phase_of(current: Run | None, failure: Run | None, policy: Policy, attempt: int) -> Phase:
    """While a failure may only repeat itself the resource stays what it was, or its conditions would flap."""
    if current is not None and current.reason in (RETRY, "schedule") and failure is not None:
        return Phase.RETRYING if transient(failure) and attempt < policy.attempts else Phase.STALLED
    if current is not None and current.state == "Running":
        return Phase.RUNNING
    return Phase.PENDING


def _attempts(ended: Sequence[Run]) -> int:
    """Failures in a row up to now: a first attempt and its retries."""
    count = 0
    for run in ended:
        if run.state != "Failed":
            break
        count += 1
        if run.reason != RETRY:
            break
    return count


def _delay(failure: Run, attempt: int, policy: Policy) -> float | None:
    """Seconds from the failure to the next attempt; None if there is to be none."""
    doubled = policy.base * 2.0 ** min(attempt - 1, 6)
    if failure.error == Reason.EVALUATION_FAILED:
        return policy.gate
    if transient(failure):
        return doubled if attempt < policy.attempts else None
    # The spec names something that is wrong or missing: it may appear any time, and looking for it is cheap.
    return min(doubled, 60.0) if attempt < RUNS_READ else 300.0
