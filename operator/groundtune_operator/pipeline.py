"""What KnowledgeBase and FineTuneJob share: a Prefect deployment kept as it should be, and its runs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from groundtune.api.common import REQUEST_ANNOTATION
from groundtune.errors import SpecError
from groundtune.names import FLOW_OF_KIND, deployment_name
from groundtune.registry.facts import ResourceFacts
from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot
from groundtune_operator import deployments, runs
from groundtune_operator.cache import Body
from groundtune_operator.clients.http import BackendError
from groundtune_operator.conditions import Verdict, verdict
from groundtune_operator.context import Context, handled_request, seconds_until
from groundtune_operator.reasons import Reason
from groundtune_operator.runs import Phase, Plan, Policy, Run
from groundtune_operator.schedules import Schedule

#: Seconds for which a deployment in Prefect is taken to be as it was last seen or written.
_TRUST = 60.0
#: Seconds that a worker gets to end a run before it is taken for dead.
_CANCEL_SECONDS = 30.0
_REQUEST_LENGTH = 256


@dataclass(frozen=True)
class Driven:
    """Where a resource's runs stand after acting.

    Args:
        handled: the request that was last acted on.
        trouble: why Prefect could not be told, or empty.
        rolled_back: the rollback that was last acted on.
    """

    plan: Plan
    handled: str
    trouble: str = ""
    rolled_back: str = ""

    def again(self, now: datetime, poll: float) -> float | None:
        """Seconds until there is something to do. A run in hand may turn out to be dead without any news of it."""
        return (
            poll if self.trouble or self.plan.current is not None else seconds_until(self.plan.retry_at, now)
        )


class Pipelines:
    """Keeps deployments in Prefect, and remembers which are known to be right."""

    def __init__(self) -> None:
        self._right: dict[str, tuple[deployments.Wanted, str, float]] = {}

    async def drive(
        self,
        context: Context,
        body: Body,
        snapshot: KnowledgeBaseSnapshot | FineTuneJobSnapshot,
        schedule: Schedule,
        facts: ResourceFacts,
        policy: Policy,
    ) -> Driven:
        """Make the deployment right, and start the run that is due, if one is."""
        handled = handled_request(body)
        asked = body.annotation(REQUEST_ANNOTATION)[:_REQUEST_LENGTH]
        request = asked if asked != handled else ""
        if context.observer.prefect.error is not None:
            return Driven(self._plan(context, body, facts, policy), handled, context.observer.prefect.error)
        wanted = deployments.wanted(snapshot, schedule)
        try:
            await self._bury(context, body, facts)
            id_, changed = await self._deployment(context, body, wanted, facts)
            plan = self._plan(context, body, facts, policy, changed=changed, request=request)
            if plan.trigger is not None:
                run = await context.prefect.start_run(
                    id_,
                    key=f"{body.uid}-{body.generation}-{plan.trigger.key}",
                    name=f"{snapshot.name}-{plan.trigger.reason}-{body.generation}",
                    parameters={**wanted.fields["parameters"], "reason": plan.trigger.reason},
                )
                context.observer.note_run(run)
                handled = request or handled
            if changed:
                await context.prefect.update_deployment(id_, {"version": wanted.fingerprint})
            self._right[body.uid] = (wanted, id_, context.now().timestamp())
        except BackendError as error:
            self._right.pop(body.uid, None)
            return Driven(self._plan(context, body, facts, policy), handled, str(error))
        return Driven(self._plan(context, body, facts, policy) if plan.trigger else plan, handled)

    def _plan(
        self,
        context: Context,
        body: Body,
        facts: ResourceFacts,
        policy: Policy,
        *,
        changed: bool = False,
        request: str = "",
    ) -> Plan:
        return runs.plan(
            _runs(context, body, facts),
            live=facts.live is not None or facts.latest is not None,
            changed=changed,
            request=request,
            policy=policy,
            now=context.now(),
        )

    async def _bury(self, context: Context, body: Body, facts: ResourceFacts) -> None:
        """Have Prefect end runs that give no sign of life, so that the next one gets their place.

        A worker that is up after all ends the process when it is told to cancel; else nobody answers.
        """
        known = context.observer.runs(body.uid)
        for run in _runs(context, body, facts):
            if not run.zombie:
                continue
            if known[run.id].orphaned:
                await context.prefect.set_state(run.id, "CRASHED", run.message)
            elif known[run.id].state != "CANCELLING":
                await context.prefect.set_state(run.id, "CANCELLING", run.message)
            elif (context.now() - known[run.id].changed).total_seconds() > _CANCEL_SECONDS:
                await context.prefect.set_state(run.id, "CRASHED", run.message)

    async def _deployment(
        self, context: Context, body: Body, wanted: deployments.Wanted, facts: ResourceFacts
    ) -> tuple[str, bool]:
        """The deployment's id, and whether a run for a changed spec has still to be started."""
        right = self._right.get(body.uid)
        if right is not None and right[0] == wanted and context.now().timestamp() - right[2] < _TRUST:
            return right[1], False
        there = await context.prefect.deployment(wanted.flow, wanted.name)
        if there is None:
            last = facts.runs[0].generation if facts.runs else body.generation
            version = wanted.fingerprint if last == body.generation else ""
            schedules = [] if wanted.schedule is None else [wanted.schedule]
            fields = wanted.fields | {"name": wanted.name, "version": version, "schedules": schedules}
            there = await context.prefect.create_deployment(wanted.flow, fields)
            return str(there["id"]), version != wanted.fingerprint
        id_ = str(there["id"])
        different = deployments.changes(there, wanted.fields)
        if different:
            await context.prefect.update_deployment(id_, different)
        timing = deployments.schedule_changes(there, wanted.schedule)
        for schedule in timing.remove:
            await context.prefect.delete_schedule(id_, schedule)
        if timing.update is not None:
            await context.prefect.update_schedule(id_, *timing.update)
        if timing.add is not None:
            await context.prefect.add_schedule(id_, timing.add)
        return id_, there.get("version") != wanted.fingerprint

    async def remove(self, context: Context, body: Body) -> bool:
        """Cancel what runs, then remove the deployment; False while a run is still being cancelled."""
        self._right.pop(body.uid, None)
        there = await context.prefect.deployment(
            FLOW_OF_KIND[body.key.kind], deployment_name(body.key.namespace, body.key.name)
        )
        unfinished = await context.prefect.unfinished(body.uid)
        for run in unfinished:
            if run.state == "CANCELLING":
                continue
            state = "CANCELLED" if run.state in ("SCHEDULED", "PENDING") else "CANCELLING"
            await context.prefect.set_state(run.id, state, f"{body.key} is being deleted")
        if any(run.state not in ("SCHEDULED", "PENDING") for run in unfinished):
            return False
        if there is not None:
            await context.prefect.delete_deployment(str(there["id"]))
        return True


def _runs(context: Context, body: Body, facts: ResourceFacts) -> list[Run]:
    observer = context.observer
    patience = timedelta(seconds=context.settings.silence_seconds)
    return runs.combine(
        facts.runs, observer.runs(body.uid), observer.lost, observer.silent, context.now(), patience
    )


def progress(
    plan: Plan, problem: SpecError | None, trouble: str, running: Reason, policy: Policy
) -> tuple[Verdict, Verdict]:
    """Reconciling and Stalled.

    Args:
        problem: what the operator itself found wrong with the spec.
        trouble: why a backend could not be told.
        running: what a run that runs is called.
    """
    if problem is not None:
        return _stalled(problem.reason, str(problem))
    failure = plan.failure
    if plan.phase is Phase.STALLED and failure is not None:
        given_up = runs.transient(failure) and not plan.retry_at and plan.current is None
        text = f"gave up after {plan.attempt} attempts: {failure.message}" if given_up else failure.message
        return _stalled(failure.error or Reason.RUN_FAILED, text)
    if trouble:
        return _working(Reason.PREFECT_UNAVAILABLE, trouble)
    if plan.phase is Phase.RETRYING and failure is not None:
        text = f"attempt {plan.attempt} of {policy.attempts} failed: {failure.message}; {_what_next(plan)}"
        return _working(Reason.RETRYING, text)
    if plan.current is not None:
        about = f"run {plan.current.id} ({plan.current.reason})"
        if plan.phase is Phase.RUNNING:
            return _working(running, about)
        if plan.current.late:
            return _working(
                Reason.WAITING_FOR_WORKER, f"{about} is overdue; is a worker of the work pool up?"
            )
        return _working(Reason.RUN_PENDING, about)
    return verdict("Reconciling", False, Reason.IDLE), verdict("Stalled", False, Reason.NOT_STALLED)


def _what_next(plan: Plan) -> str:
    if plan.current is not None:
        going = "is running" if plan.current.state == "Running" else "is being started"
        return f"run {plan.current.id} ({plan.current.reason}) {going}"
    return f"next at {plan.retry_at:%H:%M:%S} UTC" if plan.retry_at else "it is tried again now"


def _working(reason: str, text: str) -> tuple[Verdict, Verdict]:
    return verdict("Reconciling", True, reason, text), verdict("Stalled", False, Reason.NOT_STALLED)


def _stalled(reason: str, text: str) -> tuple[Verdict, Verdict]:
    return verdict("Reconciling", False, reason, text), verdict("Stalled", True, reason, text)
