"""What is done about runs."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from groundtune.registry.facts import RunFacts
from groundtune.registry.tables import RunState
from groundtune_operator.clients.prefect import PrefectRun, Worker, is_orphaned
from groundtune_operator.runs import GRACE, Phase, Plan, Policy, Run, combine, plan

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
LONG_AGO = NOW - timedelta(hours=1)
PATIENCE = timedelta(seconds=60)
POLICY = Policy(attempts=5, base=15.0, gate=300.0)


def _recorded(state: RunState = RunState.RUNNING, started: datetime = LONG_AGO) -> RunFacts:
    return RunFacts(
        id=uuid4(),
        generation=1,
        reason="created",
        state=state,
        progress={},
        result={},
        error_reason=None,
        error_message=None,
        seconds=0,
        started_at=started,
        finished_at=None,
    )


def _known(id_: UUID, state: str, *, ended: datetime | None = None, message: str = "") -> PrefectRun:
    return PrefectRun(
        id=id_,
        uid="u",
        state=state,
        message=message,
        reason="created",
        generation=1,
        due=LONG_AGO,
        started=LONG_AGO,
        ended=ended,
        changed=ended or LONG_AGO,
        late=False,
    )


def _combined(
    run: RunFacts, known: PrefectRun | None, *, lost: bool = False, silent: datetime | None = None
) -> Run:
    there = {} if known is None else {known.id: known}
    runs = combine(
        [run], there, {run.id} if lost else set(), {} if silent is None else {run.id: silent}, NOW, PATIENCE
    )
    assert len(runs) == 1
    return runs[0]


def _failed(error: str, *, reason: str = "created", ago: float = 0, state: str = "Failed") -> Run:
    at = NOW - timedelta(seconds=ago)
    return Run(uuid4(), 1, reason, state, at, at, error, "it broke")  # type: ignore[arg-type]


def _plan(
    *runs: Run, live: bool = False, changed: bool = False, request: str = "", policy: Policy = POLICY
) -> Plan:
    return plan(runs, live=live, changed=changed, request=request, policy=policy, now=NOW)


def test_a_run_that_both_take_to_run_runs() -> None:
    run = _recorded()
    assert _combined(run, _known(run.id, "RUNNING")).state == "Running"


@pytest.mark.parametrize("state", ["CRASHED", "CANCELLED", "FAILED", "COMPLETED"])
def test_a_run_that_prefect_has_ended_failed_with_its_message(state: str) -> None:
    run = _recorded()
    seen = _combined(run, _known(run.id, state, ended=NOW - GRACE, message="exit code -9"))
    assert (seen.state, seen.message, seen.zombie) == ("Failed", "exit code -9", False)


def test_the_two_may_disagree_for_a_moment() -> None:
    run = _recorded()
    assert _combined(run, _known(run.id, "COMPLETED", ended=NOW - timedelta(seconds=1))).state == "Running"


def test_a_run_that_prefect_does_not_know_is_lost_only_once_it_was_asked_for() -> None:
    run = _recorded()
    assert _combined(run, None).state == "Running"
    assert _combined(run, None, lost=True).error == "RunLost"
    assert _combined(_recorded(started=NOW), None, lost=True).state == "Running"


def test_a_silent_run_is_dead_once_patience_ends_and_still_holds_its_place() -> None:
    run = _recorded()
    known = _known(run.id, "RUNNING")
    assert _combined(run, known, silent=NOW - timedelta(seconds=59)).state == "Running"
    dead = _combined(run, known, silent=NOW - timedelta(seconds=61))
    assert (dead.state, dead.error, dead.zombie) == ("Failed", "RunLost", True)


def test_a_run_that_failed_before_it_could_record_anything_counts() -> None:
    known = _known(uuid4(), "CRASHED", ended=NOW, message="no module named groundtune_flows")
    runs = combine([], {known.id: known}, set(), {}, NOW, PATIENCE)
    assert [(run.state, run.message) for run in runs] == [("Failed", "no module named groundtune_flows")]


@pytest.mark.parametrize(
    ("worker", "orphaned"),
    [
        (None, True),
        (Worker(LONG_AGO - timedelta(hours=1), NOW + timedelta(seconds=30)), False),
        (Worker(LONG_AGO - timedelta(hours=1), NOW - timedelta(seconds=1)), True),
        (Worker(LONG_AGO + timedelta(seconds=1), NOW + timedelta(seconds=30)), True),
    ],
    ids=["there is none", "it is up still", "it went silent", "it came later"],
)
def test_a_pending_run_is_orphaned_when_no_worker_can_have_it(worker: Worker | None, orphaned: bool) -> None:
    workers = [] if worker is None else [worker]
    assert is_orphaned(_known(uuid4(), "PENDING"), workers, NOW) is orphaned
    assert not is_orphaned(_known(uuid4(), "SCHEDULED"), workers, NOW)
    assert not is_orphaned(_known(uuid4(), "RUNNING"), workers, NOW)
    assert not is_orphaned(replace(_known(uuid4(), "PENDING"), changed=NOW), workers, NOW)


def test_an_orphaned_run_has_failed_still_holds_its_place_and_is_tried_again() -> None:
    known = replace(_known(uuid4(), "PENDING"), orphaned=True)
    (run,) = combine([], {known.id: known}, set(), {}, NOW, PATIENCE)
    assert (run.state, run.error, run.zombie) == ("Failed", "RunLost", True)
    again = _plan(run).trigger
    assert again is not None
    assert again.reason == "retry"


def test_what_is_recorded_wins_over_what_prefect_says() -> None:
    run = _recorded(RunState.UNCHANGED)
    assert _combined(run, _known(run.id, "CRASHED", ended=LONG_AGO)).state == "Unchanged"


def test_nothing_ever_run_starts_a_first_run() -> None:
    started = _plan().trigger
    assert started is not None
    assert (started.reason, started.key) == ("created", "created")


def test_something_live_needs_no_first_run() -> None:
    assert _plan(live=True) == Plan(Phase.IDLE)


def test_a_request_comes_first_and_its_key_holds_its_value() -> None:
    started = _plan(_failed("SourceUnavailable"), changed=True, request="2030-01-01").trigger
    assert started is not None
    assert (started.reason, started.key) == ("requested", "requested-2030-01-01")


def test_a_change_starts_a_run_also_beside_one_in_hand() -> None:
    active = _failed("", state="Running")
    decided = _plan(active, changed=True)
    assert decided.trigger is not None
    assert decided.trigger.reason == "changed"
    assert (decided.phase, decided.current) == (Phase.RUNNING, active)


def test_a_retry_waits_and_its_key_names_the_run_that_failed() -> None:
    early = _failed("RunCrashed", ago=14)
    assert _plan(early).trigger is None
    assert _plan(early).phase is Phase.RETRYING
    due = _failed("RunCrashed", ago=15)
    started = _plan(due).trigger
    assert started is not None
    assert started.key == f"retry-{due.id}"


def test_the_wait_doubles() -> None:
    failures = [_failed("RunCrashed", reason="retry", ago=59), _failed("RunCrashed", reason="retry", ago=90)]
    assert _plan(*failures, _failed("RunCrashed", ago=120)).trigger is None
    later = [_failed("RunCrashed", reason="retry", ago=60), _failed("RunCrashed", reason="retry", ago=90)]
    assert _plan(*later, _failed("RunCrashed", ago=120)).trigger is not None


def test_five_attempts_and_no_more() -> None:
    retries = [_failed("RunCrashed", reason="retry", ago=3600 + n) for n in range(4)]
    spent = _plan(*retries, _failed("RunCrashed", ago=3610))
    assert (spent.phase, spent.trigger, spent.attempt) == (Phase.STALLED, None, 5)


def test_attempts_start_anew_with_a_run_that_is_no_retry() -> None:
    old = [_failed("RunCrashed", reason="retry", ago=3600 + n) for n in range(4)]
    again = _plan(_failed("RunCrashed", reason="requested", ago=20), *old)
    assert (again.phase, again.attempt) == (Phase.RETRYING, 1)


def test_a_fault_of_the_spec_stalls_at_once_and_is_tried_for_ever() -> None:
    assert _plan(_failed("SourceUnavailable")).phase is Phase.STALLED
    many = [_failed("SourceUnavailable", reason="retry", ago=301 + n) for n in range(10)]
    decided = _plan(*many)
    assert decided.phase is Phase.STALLED
    assert decided.trigger is not None
    recent = [_failed("SourceUnavailable", reason="retry", ago=299 + n) for n in range(10)]
    assert _plan(*recent).trigger is None


def test_a_missed_gate_waits_for_its_own_time_or_for_ever() -> None:
    missed = _failed("EvaluationFailed", ago=299)
    assert _plan(missed).trigger is None
    assert _plan(_failed("EvaluationFailed", ago=300)).trigger is not None
    never = Policy(attempts=5, base=15.0, gate=None)
    assert _plan(_failed("EvaluationFailed", ago=1e6), policy=never).trigger is None
    assert _plan(missed, policy=never).phase is Phase.STALLED


@pytest.mark.parametrize("reason", ["retry", "schedule"])
def test_conditions_do_not_flap_while_a_failure_may_only_repeat_itself(reason: str) -> None:
    active = _failed("", reason=reason, state="Running")
    assert _plan(active, _failed("SourceUnavailable", ago=60)).phase is Phase.STALLED
    assert _plan(active, _failed("RunCrashed", ago=60)).phase is Phase.RETRYING


def test_a_run_for_a_changed_spec_is_a_new_start() -> None:
    active = _failed("", reason="changed", state="Running")
    assert _plan(active, _failed("SourceUnavailable", ago=60)).phase is Phase.RUNNING


def test_success_ends_it() -> None:
    good = _failed("", state="Succeeded")
    assert _plan(good, _failed("RunCrashed", ago=60)) == Plan(Phase.IDLE)
