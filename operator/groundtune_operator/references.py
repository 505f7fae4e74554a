"""What an InferenceDeployment refers to, found among the resources of its own namespace."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import ValidationError

from groundtune.api import FineTuneJobSpec, InferenceDeploymentSpec, KnowledgeBaseSpec
from groundtune.api.knowledge_base import Embedding
from groundtune.registry.facts import ResourceFacts
from groundtune.serving import AdapterTarget, KnowledgeTarget
from groundtune_operator.cache import Body, Cache, Key
from groundtune_operator.conditions import find


@dataclass(frozen=True)
class Resolved:
    """What was found.

    Args:
        missing: a line for each reference that leads nowhere.
        mismatched: a line for each adapter that the engine could not load.
        unknown: whether the registry has not said yet what is promoted, so that nothing may be concluded.
        stale: a line for each referred resource that is not fresh.
        jobs: for each adapter without a promoted version, why its job has none.
        live: knowledge bases that have a live version.
    """

    adapters: tuple[AdapterTarget, ...] = ()
    knowledge_bases: tuple[KnowledgeTarget, ...] = ()
    missing: tuple[str, ...] = ()
    mismatched: tuple[str, ...] = ()
    unknown: bool = False
    stale: tuple[str, ...] = ()
    jobs: Mapping[str, str] | None = None
    live: frozenset[str] = frozenset()


def referred(spec: Mapping[str, Any], namespace: str) -> set[Key]:
    """Keys that an InferenceDeployment's spec names, whether or not it is valid otherwise."""
    adapters = (each.get("fineTuneJob") for each in spec.get("adapters") or [])
    bases = (each.get("name") for each in spec.get("knowledgeBases") or [])
    return {Key("FineTuneJob", namespace, str(name)) for name in adapters} | {
        Key("KnowledgeBase", namespace, str(name)) for name in bases
    }


def dependents(cache: Cache, key: Key) -> list[Key]:
    """InferenceDeployments that refer to a resource."""
    return [
        body.key
        for body in cache.of_kind("InferenceDeployment")
        if body.key.namespace == key.namespace and key in referred(body.spec, key.namespace)
    ]


def resolve(
    spec: InferenceDeploymentSpec,
    namespace: str,
    get: Callable[[Key], Body | None],
    facts: Callable[[str], ResourceFacts | None],
) -> Resolved:
    """Follow every reference of a spec."""
    adapters: list[AdapterTarget] = []
    bases: list[KnowledgeTarget] = []
    missing, mismatched, stale = [], [], []
    jobs: dict[str, str] = {}
    live = set()
    unknown = False
    for index, adapter in enumerate(spec.adapters):
        field = f"spec.adapters[{index}].fineTuneJob"
        body = get(Key("FineTuneJob", namespace, adapter.fine_tune_job))
        if body is None or body.deleted_at is not None:
            missing.append(
                f'{field}: "{adapter.fine_tune_job}": no such FineTuneJob in namespace "{namespace}"'
            )
            continue
        stale += _stale(body)
        trouble = _mismatch(field, spec, body)
        if trouble:
            mismatched.append(trouble)
            continue
        known = facts(body.uid)
        unknown |= known is None
        if known is not None and known.promoted is not None:
            promoted = known.promoted
            adapters.append(AdapterTarget(alias=adapter.name, name=promoted.name, path=promoted.path))
        else:
            jobs[adapter.name] = _why_not_ready(body)
    for index, base in enumerate(spec.knowledge_bases):
        field = f"spec.knowledgeBases[{index}].name"
        body = get(Key("KnowledgeBase", namespace, base.name))
        if body is None or body.deleted_at is not None:
            missing.append(f'{field}: "{base.name}": no such KnowledgeBase in namespace "{namespace}"')
            continue
        stale += _stale(body)
        known = facts(body.uid)
        unknown |= known is None
        if known is not None and known.live is not None:
            live.add(base.name)
        target = _knowledge_target(base.name, base.mode, body, known)
        if target is not None:
            bases.append(target)
    return Resolved(
        tuple(adapters),
        tuple(bases),
        tuple(missing),
        tuple(mismatched),
        unknown,
        tuple(stale),
        jobs,
        frozenset(live),
    )


def _knowledge_target(
    name: str, mode: Literal["always", "off"], body: Body, facts: ResourceFacts | None
) -> KnowledgeTarget | None:
    """What to search, with the embedding that the live version was made with: its vectors fit no other."""
    try:
        spec = KnowledgeBaseSpec.model_validate(body.spec)
        recipe = facts.live.recipe if facts is not None and facts.live is not None else {}
        embedding = Embedding.model_validate(recipe.get("embedding", spec.embedding))
    except ValidationError:  # its own condition says so
        return None
    return KnowledgeTarget(name=name, uid=body.uid, mode=mode, embedding=embedding, retrieval=spec.retrieval)


def _mismatch(field: str, spec: InferenceDeploymentSpec, body: Body) -> str:
    """Why the job's adapters can't be loaded beside this model; empty if they can."""
    try:
        job = FineTuneJobSpec.model_validate(body.spec)
    except ValidationError:  # its own condition says so
        return ""
    name = f'{field}: "{body.key.name}"'
    if job.base_model.uri != spec.model.uri:
        return f"{name} adapts {job.base_model.uri}, but spec.model.uri is {spec.model.uri}"
    if job.method.rank > spec.engine.max_lora_rank:
        return f"{name} has rank {job.method.rank}, more than spec.engine.maxLoraRank: {spec.engine.max_lora_rank}"
    return ""


def _stale(body: Body) -> list[str]:
    fresh = find(body.status, "Fresh")
    if fresh.get("status") != "False":
        return []
    return [f'{body.key.kind} "{body.key.name}": {fresh["reason"]}: {fresh["message"]}']


def _why_not_ready(body: Body) -> str:
    ready = find(body.status, "Ready")
    if not ready:
        return f'FineTuneJob "{body.key.name}" has no promoted version yet'
    return f'FineTuneJob "{body.key.name}": {ready["reason"]}: {ready["message"]}'
