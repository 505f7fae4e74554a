"""KnowledgeBase: kept fresh by refresh runs; ready when its live version answers."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from groundtune.api import KnowledgeBaseSpec, KnowledgeBaseStatus
from groundtune.api.knowledge_base import FailedDocument, RefreshSummary, RetrievalScores
from groundtune.durations import parse_duration
from groundtune.registry.facts import ResourceFacts, RunFacts
from groundtune.snapshots import KnowledgeBaseSnapshot
from groundtune_operator.cache import Body
from groundtune_operator.conditions import Verdict, verdict
from groundtune_operator.freshness import Freshness, by_age
from groundtune_operator.pipeline import Driven
from groundtune_operator.reasons import Reason
from groundtune_operator.rollback import roll_back
from groundtune_operator.runs import Plan
from groundtune_operator.scheduled import Kind, failed_gate
from groundtune_operator.schedules import Schedule


def _schedule(spec: KnowledgeBaseSpec) -> Schedule:
    return Schedule(spec.refresh.schedule, spec.refresh.time_zone, active=not spec.refresh.suspend)


def _freshness(spec: KnowledgeBaseSpec | None, facts: ResourceFacts, plan: Plan, now: datetime) -> Freshness:
    """Whether what is live is as new as the spec asks for."""
    limit = (
        None
        if spec is None or spec.refresh.max_staleness is None
        else parse_duration(spec.refresh.max_staleness)
    )
    since = facts.last_success.finished_at if facts.last_success is not None else None
    if facts.live is not None and facts.live.newer is not None:
        text = f"version {facts.live.version} was made live again; version {facts.live.newer} is newer"
        return Freshness(verdict("Fresh", False, Reason.ROLLED_BACK, text))
    unreached = facts.last_success.result.get("unreached") if facts.last_success is not None else None
    if unreached:
        text = f"what is stored of these sources stays as it was: {'; '.join(unreached)}"
        return Freshness(verdict("Fresh", False, Reason.SOURCE_UNREACHED, text))
    return by_age("successful refresh", Reason.NEVER_REFRESHED, since, limit, plan.failure, now)


def _ready(
    facts: ResourceFacts, stalled: Verdict, reconciling: Verdict, registry_error: str | None
) -> Verdict:
    if registry_error is not None:
        return verdict("Ready", False, Reason.REGISTRY_UNAVAILABLE, registry_error)
    if facts.live is None:
        if stalled.status == "True":
            return verdict("Ready", False, stalled.reason, stalled.message)
        return verdict("Ready", False, Reason.NO_LIVE_VERSION, f"{reconciling.reason}: {reconciling.message}")
    if not facts.live.answers:
        text = f"version {facts.live.version} is live, but a probe of its index gave back no passage"
        return verdict("Ready", False, Reason.EMPTY_CORPUS, text)
    text = (
        f"version {facts.live.version} answers: {facts.live.documents} documents, {facts.live.chunks} chunks"
    )
    return verdict("Ready", True, Reason.READY, text)


def _conditions(spec: KnowledgeBaseSpec | None, facts: ResourceFacts, plan: Plan) -> list[Verdict]:
    return [_evaluation(spec, facts, plan)]


def _evaluation(spec: KnowledgeBaseSpec | None, facts: ResourceFacts, plan: Plan) -> Verdict:
    if spec is None or spec.evaluation is None:
        return verdict("EvaluationPassed", True if facts.live is not None else None, Reason.NO_GATE)
    if plan.failure is not None and plan.failure.error == Reason.EVALUATION_FAILED:
        return verdict("EvaluationPassed", False, Reason.EVALUATION_FAILED, plan.failure.message)
    if facts.last_evaluated is None:
        return verdict("EvaluationPassed", None, Reason.NOT_EVALUATED)
    if failed_gate(facts.last_evaluated, facts.last_success):
        return verdict(
            "EvaluationPassed", False, Reason.EVALUATION_FAILED, facts.last_evaluated.error_message or ""
        )
    scores = facts.last_evaluated.result["evaluation"]
    text = (
        f"version {scores['version']}: recall@{scores['k']} {scores['recall']:.3f}, MRR {scores['mrr']:.3f}"
    )
    if made_up := scores.get("bootstrapQuestions"):
        text += f"; {made_up} of {scores['questions']} questions were made up from the corpus itself"
    return verdict("EvaluationPassed", True, Reason.GATE_PASSED, text)


def _status(body: Body, facts: ResourceFacts, driven: Driven, due: datetime | None) -> KnowledgeBaseStatus:
    """The status fields that come from facts."""
    live, last = facts.live, facts.last_success
    result = last.result if last is not None else {}
    evaluated = live.evaluation if live is not None else None
    if evaluated is None and facts.last_evaluated is not None:
        evaluated = facts.last_evaluated.result["evaluation"]
    return KnowledgeBaseStatus(
        observed_generation=body.generation,
        live_version=None if live is None else live.version,
        documents=live.documents if live is not None else 0,
        chunks=live.chunks if live is not None else 0,
        tokens=live.tokens if live is not None else 0,
        last_refresh=None if last is None else _summary(last),
        failed_documents=[
            FailedDocument(source=each["source"][:1024], reason=each["reason"][:512])
            for each in result.get("failedDocuments", [])[:20]
        ],
        evaluation=None if evaluated is None else RetrievalScores.model_validate(_readable(evaluated)),
        next_refresh_time=due,
        last_handled_request=driven.handled,
        last_handled_rollback=driven.rolled_back or str(body.status.get("lastHandledRollback", "")),
        cost=facts.cost,
        conditions=[],
    )


def _summary(run: RunFacts) -> RefreshSummary:
    finished = run.finished_at or run.started_at
    counts = ("added", "updated", "removed", "unchanged", "failed", "embeddedChunks")
    return RefreshSummary.model_validate(
        {"time": finished.replace(microsecond=0), "version": run.result.get("version")}
        | {name: run.result.get(name, 0) for name in counts}
    )


def _readable(evaluated: Mapping[str, Any]) -> dict[str, Any]:
    """Four digits: no golden set says more. Gates are held against the unrounded scores in the registry."""
    known = {key: value for key, value in evaluated.items() if key != "measuredWith"}
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in known.items()}


KNOWLEDGE_BASE = Kind(
    spec=KnowledgeBaseSpec,
    snapshot=KnowledgeBaseSnapshot,
    cadence="spec.refresh",
    schedule=_schedule,
    gate_seconds=300.0,  # documents and golden set may have been mended
    working=Reason.REFRESHING,
    freshness=_freshness,
    ready=_ready,
    own_conditions=_conditions,
    status=_status,
    roll_back=roll_back,
)
