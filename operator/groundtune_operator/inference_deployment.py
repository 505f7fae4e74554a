"""InferenceDeployment: a Serve application that follows what it refers to; ready when its own /ready says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pydantic import ValidationError

from groundtune.api import InferenceDeploymentSpec, InferenceDeploymentStatus
from groundtune.api.inference_deployment import AdapterStatus, KnowledgeBaseRefStatus
from groundtune.errors import SpecError
from groundtune.names import route_prefix
from groundtune.serving import AdapterReadiness, KnowledgeReadiness, Readiness
from groundtune_operator import serve_config
from groundtune_operator.cache import Body
from groundtune_operator.clients.http import BackendError
from groundtune_operator.clients.serve import Application
from groundtune_operator.conditions import Verdict, verdict
from groundtune_operator.context import Context, Outcome, spec_problem
from groundtune_operator.reasons import Reason
from groundtune_operator.references import Resolved, resolve
from groundtune_operator.serve_sync import ServeSync

_RETRY_SECONDS = 30.0
_RETRY_CAP = 300.0
#: Reasons that somebody has to mend; everything else mends itself.
_STALLING = {Reason.DEPLOY_FAILED, Reason.INVALID_SPEC, Reason.ADAPTER_FAILED, Reason.ADAPTER_MISMATCH}


@dataclass(frozen=True)
class Seen:
    """What is known of the endpoint.

    Args:
        trouble: why Serve could not be told.
        registry_error: likewise.
        gave_up: the application as it was when Serve gave up on this config; it may be starting once more.
    """

    application: Application | None
    readiness: Readiness | str | None
    trouble: str = ""
    registry_error: str | None = None
    gave_up: Application | None = None


class Retries:
    """Applications that Serve has given up on, by uid: how they failed, and when they are put again."""

    def __init__(self) -> None:
        self._state: dict[str, tuple[Application, int, float]] = {}

    def saw(self, uid: str, application: Application | None, now: float) -> None:
        """Take in how an application stands. A failure counts until it runs, so that conditions do not flap."""
        if application is None or application.status == "RUNNING":
            self.forget(uid)
        elif application.status == "DEPLOY_FAILED":
            _, count, at = self._state.get(uid, (None, 0, now + _RETRY_SECONDS))
            self._state[uid] = (application, count, at)

    def failure(self, uid: str) -> Application | None:
        """The application as it failed, if it has not run since."""
        return self._state[uid][0] if uid in self._state else None

    def due(self, uid: str, now: float) -> bool:
        """Whether it is time to put it again; the first failure that is seen starts the clock."""
        application, count, at = self._state[uid]
        if now < at:
            return False
        wait = min(_RETRY_CAP, _RETRY_SECONDS * 2.0 ** (count + 1))
        self._state[uid] = (application, count + 1, now + wait)
        return True

    def forget(self, uid: str) -> None:
        """It runs, is another one now, or is gone."""
        self._state.pop(uid, None)


async def reconcile(context: Context, sync: ServeSync, retries: Retries, body: Body) -> Outcome:
    """Observe, bring Serve in step, and say what holds."""
    observer = context.observer
    seen = Seen(
        observer.application(body.key), observer.readiness(body.key), registry_error=observer.registry.error
    )
    try:
        spec = InferenceDeploymentSpec.model_validate(body.spec)
    except ValidationError as error:
        verdicts = judge(None, spec_problem(error), Resolved(), seen)
        return Outcome(None, verdicts)
    resolved = resolve(spec, body.key.namespace, context.cache.get, observer.facts)
    trouble = observer.serve.error or ""
    again = None
    if not trouble:
        try:
            again = await _tell(context, sync, retries, body, seen.application)
        except BackendError as error:
            trouble, again = str(error), context.settings.poll_seconds
    seen = replace(seen, trouble=trouble, gave_up=retries.failure(body.uid))
    url = f"{context.settings.serve_url.rstrip('/')}{route_prefix(body.key.namespace, body.key.name)}/v1"
    return Outcome(status(body, spec, resolved, seen, url), judge(spec, None, resolved, seen), again)


async def _tell(
    context: Context, sync: ServeSync, retries: Retries, body: Body, application: Application | None
) -> float | None:
    """Put the Serve config if this application is not what it should be; seconds until the next look."""
    wanted = sync.render(context, body)
    if wanted is None:
        return None
    there = None if application is None else application.config
    if not serve_config.includes(there, wanted):
        retries.forget(body.uid)
        await sync.sync(context)
        return None
    retries.saw(body.uid, application, context.now().timestamp())
    if application is not None and application.status == "DEPLOY_FAILED":
        if retries.due(body.uid, context.now().timestamp()):
            await sync.sync(context, retry=wanted["name"])
        return _RETRY_SECONDS
    return None


def judge(
    spec: InferenceDeploymentSpec | None, problem: SpecError | None, resolved: Resolved, seen: Seen
) -> list[Verdict]:
    """All conditions of an inference deployment."""
    adapters = _adapters(spec, resolved, seen)
    knowledge = _knowledge(spec, resolved, seen)
    ready = _ready(spec, problem, resolved, seen, adapters, knowledge)
    cause = ready
    if seen.gave_up is not None:
        # What ran before may still answer, but what the spec says does not run.
        cause = _deploy_failed(seen.gave_up)
    elif ready.status == "True" and adapters.status != "True":
        cause = adapters  # an older version answers
    stalled = cause.reason in _STALLING
    behind = _behind(resolved, seen, adapters)
    if not stalled and ready.status == "True" and behind is not None:
        cause = behind
    busy = not stalled and (ready.status != "True" or behind is not None)
    return [
        ready,
        verdict(
            "Reconciling",
            busy,
            cause.reason if busy or stalled else Reason.IDLE,
            cause.message if busy or stalled else "",
        ),
        verdict(
            "Stalled",
            stalled,
            cause.reason if stalled else Reason.NOT_STALLED,
            cause.message if stalled else "",
        ),
        _fresh(spec, resolved),
        adapters,
        knowledge,
    ]


def _ready(
    spec: InferenceDeploymentSpec | None,
    problem: SpecError | None,
    resolved: Resolved,
    seen: Seen,
    adapters: Verdict,
    knowledge: Verdict,
) -> Verdict:
    if problem is not None:
        return verdict("Ready", False, problem.reason, str(problem))
    if resolved.missing:
        return verdict("Ready", False, Reason.REFERENCE_NOT_FOUND, "; ".join(resolved.missing))
    if isinstance(seen.readiness, Readiness):
        parts = (knowledge,) if _all_answer(spec, seen) else (adapters, knowledge)
        for part in parts:
            if part.status != "True":
                return verdict("Ready", False, part.reason, part.message)
        if not seen.readiness.ready:
            return verdict("Ready", False, Reason.NOT_READY, seen.readiness.message)
        return verdict("Ready", True, Reason.READY, f"answers as {', '.join(seen.readiness.models)}")
    if seen.trouble:
        return verdict("Ready", False, Reason.SERVE_UNAVAILABLE, seen.trouble)
    if resolved.unknown and seen.registry_error is not None:
        return verdict("Ready", False, Reason.REGISTRY_UNAVAILABLE, seen.registry_error)
    return _starting(seen)


def _all_answer(spec: InferenceDeploymentSpec | None, seen: Seen) -> bool:
    """Whether each declared adapter answers with a version of its job, be it an older one."""
    loaded = _loaded(seen)
    return spec is not None and all(
        each.name in loaded and loaded[each.name].name.rpartition("-v")[0] == each.fine_tune_job
        for each in spec.adapters
    )


def _starting(seen: Seen) -> Verdict:
    """Why an application that can't be asked does not answer."""
    if seen.gave_up is not None:
        return _deploy_failed(seen.gave_up)
    app = seen.application
    if app is None:
        return verdict("Ready", False, Reason.DEPLOYING, "Ray Serve is told to start the application")
    told = serve_config.root_cause(next(iter(app.troubles), "") or app.message)
    if app.status == "UNHEALTHY":
        return verdict("Ready", False, Reason.UNHEALTHY, told)
    if app.status == "RUNNING":
        return verdict("Ready", False, Reason.ENDPOINT_UNAVAILABLE, str(seen.readiness or "not asked yet"))
    return verdict("Ready", False, Reason.DEPLOYING, told or "Ray Serve starts the application")


def _deploy_failed(app: Application) -> Verdict:
    told = next(iter(app.troubles), "") or app.message
    return verdict("Ready", False, Reason.DEPLOY_FAILED, serve_config.root_cause(told))


def _behind(resolved: Resolved, seen: Seen, adapters: Verdict) -> Verdict | None:
    """Why the endpoint, though it answers, may not be what the spec says."""
    if seen.trouble:
        return verdict("Reconciling", True, Reason.SERVE_UNAVAILABLE, seen.trouble)
    if seen.registry_error is not None:
        return verdict("Reconciling", True, Reason.REGISTRY_UNAVAILABLE, seen.registry_error)
    if seen.application is not None and seen.application.status == "DEPLOYING":
        return verdict("Reconciling", True, Reason.DEPLOYING, "Ray Serve updates the application")
    if adapters.status != "True":
        return verdict("Reconciling", True, adapters.reason, adapters.message)
    return None


def _adapters(spec: InferenceDeploymentSpec | None, resolved: Resolved, seen: Seen) -> Verdict:
    if spec is None or not spec.adapters:
        return verdict("AdaptersLoaded", True, Reason.NOT_DECLARED)
    if resolved.mismatched:
        return verdict("AdaptersLoaded", False, Reason.ADAPTER_MISMATCH, "; ".join(resolved.mismatched))
    targets = {target.alias: target for target in resolved.adapters}
    loaded = _loaded(seen)
    for adapter in spec.adapters:
        target, there = targets.get(adapter.name), loaded.get(adapter.name)
        if target is None:
            why = (resolved.jobs or {}).get(adapter.name)
            missing = [line for line in resolved.missing if line.startswith("spec.adapters")]
            if why is None and missing:
                return verdict("AdaptersLoaded", False, Reason.REFERENCE_NOT_FOUND, "; ".join(missing))
            why = why or "the registry has not been read yet"
            return verdict("AdaptersLoaded", False, Reason.WAITING_FOR_ADAPTER, why)
        if there is not None and there.state == "Failed":
            return verdict("AdaptersLoaded", False, Reason.ADAPTER_FAILED, f"{target.name}: {there.message}")
        if there is None or there.name != target.name or there.state != "Loaded":
            now = f"; {there.name} answers until then" if there is not None and there.name else ""
            return verdict(
                "AdaptersLoaded", False, Reason.ADAPTER_LOADING, f"{target.name} is being loaded{now}"
            )
    return verdict(
        "AdaptersLoaded", True, Reason.ADAPTERS_LOADED, ", ".join(each.name for each in resolved.adapters)
    )


def _knowledge(spec: InferenceDeploymentSpec | None, resolved: Resolved, seen: Seen) -> Verdict:
    if spec is None or not spec.knowledge_bases:
        return verdict("KnowledgeReady", True, Reason.NOT_DECLARED)
    missing = [line for line in resolved.missing if line.startswith("spec.knowledgeBases")]
    if missing:
        return verdict("KnowledgeReady", False, Reason.REFERENCE_NOT_FOUND, "; ".join(missing))
    read = _read(seen)
    for base in spec.knowledge_bases:
        there = read.get(base.name)
        if there is not None and there.version is not None:
            continue
        if base.name not in resolved.live:
            text = f'KnowledgeBase "{base.name}" has no live version yet'
            return verdict("KnowledgeReady", False, Reason.WAITING_FOR_KNOWLEDGE, text)
        if there is None:
            text = f'KnowledgeBase "{base.name}": the endpoint has not searched it yet'
            return verdict("KnowledgeReady", False, Reason.DEPLOYING, text)
        text = f'KnowledgeBase "{base.name}": {there.message}'
        return verdict("KnowledgeReady", False, Reason.KNOWLEDGE_FAILED, text)
    versions = ", ".join(f"{base.name} version {read[base.name].version}" for base in spec.knowledge_bases)
    return verdict("KnowledgeReady", True, Reason.KNOWLEDGE_READY, versions)


def _fresh(spec: InferenceDeploymentSpec | None, resolved: Resolved) -> Verdict:
    if spec is None or not (spec.adapters or spec.knowledge_bases):
        return verdict("Fresh", True, Reason.NOT_DECLARED)
    if resolved.missing:
        return verdict("Fresh", None, Reason.REFERENCE_NOT_FOUND)
    if resolved.stale:
        return verdict("Fresh", False, Reason.STALE_REFERENCE, "; ".join(resolved.stale))
    return verdict("Fresh", True, Reason.UP_TO_DATE)


def _loaded(seen: Seen) -> Mapping[str, AdapterReadiness]:
    return (
        {each.alias: each for each in seen.readiness.adapters}
        if isinstance(seen.readiness, Readiness)
        else {}
    )


def _read(seen: Seen) -> Mapping[str, KnowledgeReadiness]:
    said = seen.readiness
    return {each.name: each for each in said.knowledge_bases} if isinstance(said, Readiness) else {}


def status(
    body: Body, spec: InferenceDeploymentSpec, resolved: Resolved, seen: Seen, url: str
) -> InferenceDeploymentStatus:
    """The status fields: what the endpoint itself said."""
    loaded, read = _loaded(seen), _read(seen)
    targets = {target.alias: target.name for target in resolved.adapters}
    return InferenceDeploymentStatus(
        observed_generation=body.generation,
        url=url,
        models=seen.readiness.models if isinstance(seen.readiness, Readiness) else [],
        adapters=[
            _adapter_status(each.name, targets.get(each.name), loaded.get(each.name))
            for each in spec.adapters
        ],
        knowledge_bases=[
            KnowledgeBaseRefStatus(
                name=each.name, version=read[each.name].version if each.name in read else None
            )
            for each in spec.knowledge_bases
        ],
        replicas=seen.application.replicas if seen.application is not None else 0,
        conditions=[],
    )


def _adapter_status(name: str, target: str | None, there: AdapterReadiness | None) -> AdapterStatus:
    version = there.name if there is not None else ""
    if target is None:
        return AdapterStatus(name=name, version=version, state="Waiting")
    if there is not None and there.state == "Failed":
        return AdapterStatus(name=name, version=version, state="Failed", message=there.message[:1024])
    return AdapterStatus(name=name, version=version, state="Loaded" if version == target else "Loading")
