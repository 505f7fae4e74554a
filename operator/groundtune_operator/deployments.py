"""The Prefect deployment that a resource should have, and how it differs from the one that is there.

Its `version` is a hash of what a run depends on, as of the last run that was started for a change. It is written
after that run is started, so that a crash in between repeats the start, which the idempotency key makes harmless.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from groundtune.names import (
    FINE_TUNE_FLOW,
    FLOW_OF_KIND,
    REFRESH_FLOW,
    WORK_POOL,
    deployment_name,
    resource_tags,
)
from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot
from groundtune_operator.schedules import Schedule

_ENTRYPOINTS = {
    REFRESH_FLOW: "groundtune_flows.refresh.refresh_knowledge_base",
    FINE_TUNE_FLOW: "groundtune_flows.fine_tune.fine_tune",
}
#: Parts of a spec that say when to run, or how results are used, but not what a run makes.
_NO_RUN = {
    "KnowledgeBase": {"refresh", "retrieval", "deletionPolicy"},
    "FineTuneJob": {"retraining", "checkpoint"},
}
_SLUG = "schedule"


@dataclass(frozen=True)
class Wanted:
    """A deployment as it should be. `fingerprint` covers the spec's part that a run depends on."""

    flow: str
    name: str
    fields: dict[str, Any]
    schedule: dict[str, Any] | None
    fingerprint: str


def wanted(snapshot: KnowledgeBaseSnapshot | FineTuneJobSnapshot, schedule: Schedule) -> Wanted:
    """The deployment for a resource with a valid schedule."""
    told = snapshot.model_dump(mode="json", by_alias=True)
    flow = FLOW_OF_KIND[snapshot.kind]
    relevant = {name: part for name, part in told["spec"].items() if name not in _NO_RUN[snapshot.kind]}
    fields: dict[str, Any] = {
        "entrypoint": _ENTRYPOINTS[flow],
        "work_pool_name": WORK_POOL,
        "parameters": {"snapshot": told, "reason": "schedule"},
        "tags": resource_tags(snapshot.kind, snapshot.namespace, snapshot.uid),
        "concurrency_limit": 1,
        "concurrency_options": {"collision_strategy": "ENQUEUE"},
        "enforce_parameter_schema": False,
    }
    timing = None
    if schedule.cron is not None:
        cron = {"cron": schedule.cron, "timezone": schedule.time_zone}
        timing = {"slug": _SLUG, "active": schedule.active, "schedule": cron}
    return Wanted(
        flow=flow,
        name=deployment_name(snapshot.namespace, snapshot.name),
        fields=fields,
        schedule=timing,
        fingerprint=hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:16],
    )


def changes(there: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields to write; empty if the deployment has them all."""
    return {name: value for name, value in fields.items() if not _same(name, there, value)}


def _same(name: str, there: Mapping[str, Any], value: Any) -> bool:
    if name == "concurrency_limit":  # Prefect answers it as the limit object that it keeps for the deployment
        return bool((there.get("global_concurrency_limit") or {}).get("limit") == value)
    if name == "tags":
        return set(there.get("tags") or ()) == set(value)
    if isinstance(value, dict) and name != "parameters":  # Prefect adds its own defaults
        found = there.get(name) or {}
        return all(found.get(key) == each for key, each in value.items())
    return bool(there.get(name) == value)


@dataclass(frozen=True)
class ScheduleChanges:
    """Schedules of a deployment to add, to change and to remove."""

    add: dict[str, Any] | None = None
    update: tuple[str, dict[str, Any]] | None = None
    remove: tuple[str, ...] = ()


def schedule_changes(there: Mapping[str, Any], schedule: Mapping[str, Any] | None) -> ScheduleChanges:
    """How the deployment's schedules become the one wanted, or none."""
    own = None
    remove = []
    for each in there.get("schedules") or []:
        if schedule is not None and own is None and each.get("slug") == _SLUG:
            own = each
        else:
            remove.append(str(each["id"]))
    if schedule is None:
        return ScheduleChanges(remove=tuple(remove))
    if own is None:
        return ScheduleChanges(add=dict(schedule), remove=tuple(remove))
    timing = {key: own["schedule"].get(key) for key in schedule["schedule"]}
    if timing == schedule["schedule"] and own["active"] == schedule["active"]:
        return ScheduleChanges(remove=tuple(remove))
    update = {"active": schedule["active"], "schedule": schedule["schedule"]}
    return ScheduleChanges(update=(str(own["id"]), update), remove=tuple(remove))
