"""What KnowledgeBase and FineTuneJob share: runs that are due are started, and conditions say what came of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, TypeVar

from pydantic import BaseModel, ValidationError

from groundtune.errors import SpecError
from groundtune.registry.facts import ResourceFacts, RunFacts
from groundtune.registry.tables import RunState
from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot
from groundtune_operator import schedules
from groundtune_operator.cache import Body
from groundtune_operator.conditions import Verdict, verdict
from groundtune_operator.context import (
    Context,
    Outcome,
    handled_request,
    seconds_until,
    soonest,
    spec_problem,
)
from groundtune_operator.freshness import Freshness
from groundtune_operator.pipeline import Driven, Pipelines, progress
from groundtune_operator.reasons import Reason
from groundtune_operator.runs import Phase, Plan, Policy
from groundtune_operator.schedules import Schedule

Spec = TypeVar("Spec", bound=BaseModel)


@dataclass(frozen=True)
class Kind(Generic[Spec]):
    """What differs.

    Args:
        cadence: the field of the spec that holds the schedule.
        gate_seconds: until a run that missed its gates is tried again; None: not before something has changed.
        working: reason of `Reconciling` while a run is at work.
        roll_back: makes the version live that an annotation names; gives the annotation that was acted on last.
    """

    spec: type[Spec]
    snapshot: type[KnowledgeBaseSnapshot] | type[FineTuneJobSnapshot]
    cadence: str
    schedule: Callable[[Spec], Schedule]
    gate_seconds: float | None
    working: Reason
    freshness: Callable[[Spec | None, ResourceFacts, Plan, datetime], Freshness]
    ready: Callable[[ResourceFacts, Verdict, Verdict, str | None], Verdict]
    own_conditions: Callable[[Spec | None, ResourceFacts, Plan], list[Verdict]]
    status: Callable[[Body, ResourceFacts, Driven, datetime | None], BaseModel]
    roll_back: Callable[[Context, Body], Awaitable[str]] | None = None

    async def reconcile(self, context: Context, pipelines: Pipelines, body: Body) -> Outcome:
        """Observe, start what is due, and say what holds."""
        settings, registry_error = context.settings, context.observer.registry.error
        policy = Policy(attempts=settings.max_attempts, base=settings.retry_seconds, gate=self.gate_seconds)
        facts = context.observer.facts(body.uid)
        spec, problem = self.parse(body)
        schedule = Schedule(None, "UTC", active=False) if spec is None else self.schedule(spec)
        driven = Driven(Plan(Phase.IDLE), handled_request(body))
        if spec is not None and problem is None and facts is not None and registry_error is None:
            snapshot = self.snapshot.model_validate(
                {
                    "namespace": body.key.namespace,
                    "name": body.key.name,
                    "uid": body.uid,
                    "generation": body.generation,
                    "spec": spec,
                }
            )
            driven = await pipelines.drive(context, body, snapshot, schedule, facts, policy)
        if self.roll_back is not None and registry_error is None:
            driven = replace(driven, rolled_back=await self.roll_back(context, body))
        now = context.now()
        fresh = self.freshness(spec, facts or ResourceFacts(), driven.plan, now)
        due = schedules.next_time(schedule, now) if problem is None else None
        return Outcome(
            fields=None if facts is None else self.status(body, facts, driven, due),
            verdicts=self._judge(spec, problem, facts, driven, fresh, policy, registry_error),
            again=soonest(
                driven.again(now, settings.poll_seconds),
                seconds_until(fresh.until, now),
                seconds_until(due, now),
            ),
        )

    def parse(self, body: Body) -> tuple[Spec | None, SpecError | None]:
        """The spec, and what is wrong with it that the API server's schema can't see."""
        try:
            spec = self.spec.model_validate(body.spec)
            schedules.validate(self.schedule(spec), self.cadence)
        except ValidationError as error:
            return None, spec_problem(error)
        except SpecError as error:
            return spec, error
        return spec, None

    def _judge(
        self,
        spec: Spec | None,
        problem: SpecError | None,
        facts: ResourceFacts | None,
        driven: Driven,
        fresh: Freshness,
        policy: Policy,
        registry_error: str | None,
    ) -> list[Verdict]:
        reconciling, stalled = progress(driven.plan, problem, driven.trouble, self.working, policy)
        if registry_error is not None and problem is None:
            reconciling = verdict("Reconciling", True, Reason.REGISTRY_UNAVAILABLE, registry_error)
        known = facts or ResourceFacts()
        return [
            self.ready(known, stalled, reconciling, registry_error),
            reconciling,
            stalled,
            fresh.verdict if facts is not None else verdict("Fresh", None, Reason.REGISTRY_UNAVAILABLE),
            *self.own_conditions(spec, known, driven.plan),
        ]


def failed_gate(evaluated: RunFacts, success: RunFacts | None) -> bool:
    """Whether the newest evaluation is one that missed a gate, with no success since."""
    if evaluated.state is not RunState.FAILED or evaluated.error_reason != Reason.EVALUATION_FAILED:
        return False
    return success is None or success.started_at < evaluated.started_at
