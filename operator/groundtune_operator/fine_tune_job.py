"""FineTuneJob: adapters made by training runs; ready when one is promoted, or waits for a person to promote it."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from groundtune.api import FineTuneJobSpec, FineTuneJobStatus
from groundtune.api.fine_tune_job import AdapterScores, DatasetFacts, RunSummary, TrainingProgress
from groundtune.durations import parse_duration
from groundtune.registry.facts import ResourceFacts, RunFacts
from groundtune.registry.tables import AdapterState, RunState
from groundtune.snapshots import FineTuneJobSnapshot
from groundtune_operator.cache import Body
from groundtune_operator.conditions import Verdict, verdict
from groundtune_operator.freshness import Freshness, by_age
from groundtune_operator.pipeline import Driven
from groundtune_operator.reasons import Reason
from groundtune_operator.runs import Plan
from groundtune_operator.scheduled import Kind, failed_gate
from groundtune_operator.schedules import Schedule

_DATASET_ERRORS = ("Dataset", "Source")


def _schedule(spec: FineTuneJobSpec) -> Schedule:
    return Schedule(spec.retraining.schedule, spec.retraining.time_zone, active=not spec.retraining.suspend)


def _freshness(spec: FineTuneJobSpec | None, facts: ResourceFacts, plan: Plan, now: datetime) -> Freshness:
    """Whether the promoted adapter is as new as the spec asks for."""
    limit = (
        None if spec is None or spec.retraining.max_age is None else parse_duration(spec.retraining.max_age)
    )
    since = None if facts.promoted is None else facts.promoted.promoted_at or facts.promoted.created_at
    return by_age("promotion", Reason.NEVER_PROMOTED, since, limit, plan.failure, now)


def _ready(
    facts: ResourceFacts, stalled: Verdict, reconciling: Verdict, registry_error: str | None
) -> Verdict:
    if facts.promoted is not None:
        return verdict("Ready", True, Reason.READY, f"{facts.promoted.name} is promoted")
    if registry_error is not None:
        return verdict("Ready", False, Reason.REGISTRY_UNAVAILABLE, registry_error)
    if facts.latest is not None and facts.latest.state == AdapterState.CANDIDATE:
        text = f"{facts.latest.name} waits to be promoted by hand"
        return verdict("Ready", True, Reason.CANDIDATE_READY, text)
    if stalled.status == "True":
        return verdict("Ready", False, stalled.reason, stalled.message)
    return verdict("Ready", False, Reason.NO_PROMOTED_VERSION, f"{reconciling.reason}: {reconciling.message}")


def _conditions(spec: FineTuneJobSpec | None, facts: ResourceFacts, plan: Plan) -> list[Verdict]:
    return [_dataset(facts, plan), _evaluation(spec, facts, plan)]


def _dataset(facts: ResourceFacts, plan: Plan) -> Verdict:
    if plan.failure is not None and plan.failure.error.startswith(_DATASET_ERRORS):
        return verdict("DatasetValid", False, plan.failure.error, plan.failure.message)
    dataset = _newest(facts, "dataset")
    if dataset is None:
        return verdict("DatasetValid", None, Reason.DATASET_NOT_READ)
    return verdict("DatasetValid", True, Reason.DATASET_READ, f"{dataset['examples']} examples")


def _evaluation(spec: FineTuneJobSpec | None, facts: ResourceFacts, plan: Plan) -> Verdict:
    if spec is None or spec.evaluation is None:
        return verdict("EvaluationPassed", True if facts.latest is not None else None, Reason.NO_GATE)
    if plan.failure is not None and plan.failure.error == Reason.EVALUATION_FAILED:
        return verdict("EvaluationPassed", False, Reason.EVALUATION_FAILED, plan.failure.message)
    evaluated = facts.last_evaluated
    if evaluated is None:
        return verdict("EvaluationPassed", None, Reason.NOT_EVALUATED)
    if failed_gate(evaluated, facts.last_success):
        return verdict("EvaluationPassed", False, Reason.EVALUATION_FAILED, evaluated.error_message or "")
    scores = evaluated.result["evaluation"]
    values = ", ".join(f"{name} {value:.4g}" for name, value in sorted(scores["candidate"].items()))
    return verdict("EvaluationPassed", True, Reason.GATE_PASSED, f"version {scores['version']}: {values}")


def _newest(facts: ResourceFacts, name: str) -> dict[str, Any] | None:
    """A part of the newest result that has it."""
    return next((run.result[name] for run in facts.runs if run.result.get(name)), None)


def _status(body: Body, facts: ResourceFacts, driven: Driven, due: datetime | None) -> FineTuneJobStatus:
    """The status fields that come from facts."""
    dataset = _newest(facts, "dataset")
    evaluated = facts.last_evaluated.result["evaluation"] if facts.last_evaluated is not None else None
    return FineTuneJobStatus(
        observed_generation=body.generation,
        promoted_version=None if facts.promoted is None else facts.promoted.version,
        latest_version=None if facts.latest is None else facts.latest.version,
        progress=_progress(facts, driven.plan),
        runs=[_summary(run, facts, driven.plan) for run in facts.runs],
        next_run_time=due,
        dataset=None if dataset is None else DatasetFacts.model_validate(dataset),
        evaluation=None if evaluated is None else AdapterScores.model_validate(evaluated),
        last_handled_request=driven.handled,
        cost=facts.cost,
        conditions=[],
    )


def _progress(facts: ResourceFacts, plan: Plan) -> TrainingProgress | None:
    """Where the run in hand stands, if it has said so."""
    run = next((run for run in facts.runs if plan.current is not None and run.id == plan.current.id), None)
    if run is None or not run.progress:
        return None
    known = {field.alias for field in TrainingProgress.model_fields.values()}
    return TrainingProgress.model_validate(
        {name: each for name, each in run.progress.items() if name in known}
    )


def _summary(run: RunFacts, facts: ResourceFacts, plan: Plan) -> RunSummary:
    dead = plan.failure is not None and plan.failure.id == run.id
    return RunSummary(
        id=str(run.id),
        reason=run.reason[:64],
        state=RunState.FAILED.capitalize() if dead else run.state.capitalize(),
        started=run.started_at.replace(microsecond=0),
        seconds=round(run.seconds, 1),
        version=facts.adapters.get(run.id),
    )


FINE_TUNE_JOB = Kind(
    spec=FineTuneJobSpec,
    snapshot=FineTuneJobSnapshot,
    cadence="spec.retraining",
    schedule=_schedule,
    gate_seconds=None,  # training on the same data would only miss them again, at the same cost
    working=Reason.TRAINING,
    freshness=_freshness,
    ready=_ready,
    own_conditions=_conditions,
    status=_status,
)
