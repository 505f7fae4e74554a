"""The Serve config: all applications at once, since Serve removes any that a config leaves out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from groundtune.api import InferenceDeploymentSpec
from groundtune.names import application_name, route_prefix
from groundtune.serving import EngineArgs, ServedSet, Unmet
from groundtune_operator.cache import Key
from groundtune_operator.clients.serve import Application
from groundtune_operator.references import Resolved

#: Our own errors are written for people, who need not know what class they are.
_OWN_ERROR = re.compile(r"^groundtune\.errors\.\w+: ")
IMPORT_PATH = "groundtune_services.app:build"
DEPLOYMENT = "Gateway"


def application(key: Key, spec: InferenceDeploymentSpec, resolved: Resolved) -> dict[str, Any]:
    """An InferenceDeployment as a Serve application. Only `user_config` follows what its references make."""
    args = EngineArgs(
        namespace=key.namespace,
        name=key.name,
        model=spec.model,
        engine=spec.engine,
        resources=spec.resources,
        min_replicas=spec.scaling.min_replicas,
        max_replicas=spec.scaling.max_replicas,
        target_ongoing_requests=spec.scaling.target_ongoing_requests,
    )
    served = ServedSet(
        adapters=list(resolved.adapters),
        knowledge_bases=list(resolved.knowledge_bases),
        unmet=_unmet(spec, resolved),
        prompt=spec.prompt,
    )
    return {
        "name": application_name(key.namespace, key.name),
        "route_prefix": route_prefix(key.namespace, key.name),
        "import_path": IMPORT_PATH,
        "args": args.model_dump(mode="json", by_alias=True),
        "deployments": [{"name": DEPLOYMENT, "user_config": served.model_dump(mode="json", by_alias=True)}],
    }


def _unmet(spec: InferenceDeploymentSpec, resolved: Resolved) -> list[Unmet]:
    adapters = {each.alias for each in resolved.adapters}
    bases = {each.name for each in resolved.knowledge_bases}
    return [
        *(Unmet(kind="adapter", name=each.name) for each in spec.adapters if each.name not in adapters),
        *(
            Unmet(kind="knowledge base", name=each.name, answers=each.mode == "always")
            for each in spec.knowledge_bases
            if each.name not in bases
        ),
    ]


def whole(
    wanted: Mapping[str, dict[str, Any] | None],
    deployed: Mapping[str, Application],
    namespaces: frozenset[str],
) -> list[dict[str, Any]]:
    """Every application to list.

    Args:
        wanted: by application name; None keeps what is deployed, as it can't be told now what should be.
        deployed: what Serve has.
        namespaces: those that this operator looks after; empty means all.
    """
    listed = {name: each for name, each in wanted.items() if each is not None}
    for name, there in deployed.items():
        if there.config is None or name in listed:
            continue
        foreign = there.config.get("import_path") != IMPORT_PATH
        elsewhere = bool(namespaces) and name.split(".", 1)[0] not in namespaces
        if name in wanted or foreign or elsewhere:
            listed[name] = there.config
    return [listed[name] for name in sorted(listed)]


def differs(listed: list[dict[str, Any]], deployed: Mapping[str, Application]) -> bool:
    """Whether Serve has to be told: something is new, changed, or to be removed."""
    there = {name: each.config for name, each in deployed.items() if each.config is not None}
    if {each["name"] for each in listed} != set(there):
        return True
    return any(not includes(there[each["name"]], each) for each in listed)


def includes(there: Any, wanted: Any) -> bool:
    """Whether `there` says all that `wanted` says; Serve adds defaults and leaves out nulls."""
    if isinstance(wanted, dict):
        return isinstance(there, dict) and all(
            includes(there.get(key), value) for key, value in wanted.items()
        )
    if isinstance(wanted, list):
        return (
            isinstance(there, list)
            and len(there) == len(wanted)
            and all(includes(a, b) for a, b in zip(there, wanted, strict=True))
        )
    return bool(there == wanted)


def root_cause(message: str) -> str:
    """The last words of a message that may hold a trace: what was raised, and any lines after it."""
    lines = [line.rstrip() for line in message.strip().splitlines() if line.strip()]
    last_frame = max(
        (n for n, line in enumerate(lines) if line.startswith((" ", "\t", "Traceback"))), default=-1
    )
    words = " ".join(" ".join(lines[last_frame + 1 :] or lines[-1:]).split())
    return _OWN_ERROR.sub("", words)[:1000]
