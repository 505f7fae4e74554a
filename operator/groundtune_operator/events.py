"""Kubernetes events on transitions that a person cares about, read off the status before and after."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from groundtune.api import API_VERSION
from groundtune_operator.cache import Body
from groundtune_operator.clients.http import BackendError
from groundtune_operator.clients.kube import Kube
from groundtune_operator.conditions import find, timestamp
from groundtune_operator.reasons import Reason

logger = logging.getLogger(__name__)

_MESSAGE_LENGTH = 1024


@dataclass(frozen=True)
class Event:
    """What happened, as `kubectl describe` shows it."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


def transitions(kind: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Event]:
    """The events between two statuses of a resource."""
    found = {
        "KnowledgeBase": _knowledge_base,
        "FineTuneJob": _fine_tune_job,
        "InferenceDeployment": _inference_deployment,
    }[kind](old, new)
    return found + _conditions(old, new)


def _conditions(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Event]:
    found = []
    ready = _turned(old, new, "Ready", "True")
    if ready is not None:
        found.append(Event("Normal", "Ready", ready["message"]))
    gate = _turned(old, new, "EvaluationPassed", "False")
    if gate is not None:
        found.append(Event("Warning", "GateFailed", gate["message"]))
    retrying, before = find(new, "Reconciling"), find(old, "Reconciling")
    if retrying.get("reason") == Reason.RETRYING != before.get("reason"):
        found.append(Event("Warning", "RunFailed", retrying["message"]))
    stalled, before = find(new, "Stalled"), find(old, "Stalled")
    same = (before.get("status"), before.get("reason")) == (stalled.get("status"), stalled.get("reason"))
    if stalled.get("status") == "True" and not same:
        found.append(Event("Warning", stalled["reason"], stalled["message"]))
    lost = _turned(old, new, "Ready", "False")
    if (
        lost is not None
        and find(old, "Ready").get("status") == "True"
        and lost["reason"] != stalled.get("reason")
    ):
        found.append(Event("Warning", lost["reason"], lost["message"]))
    stale = _turned(old, new, "Fresh", "False")
    if stale is not None and stale["reason"] in (
        Reason.TOO_OLD,
        Reason.STALE_REFERENCE,
        Reason.SOURCE_UNREACHED,
    ):
        found.append(Event("Warning", stale["reason"], stale["message"]))
    return found


def _turned(
    old: Mapping[str, Any], new: Mapping[str, Any], type_: str, status: str
) -> Mapping[str, Any] | None:
    """The condition, if it has this status now and had another before."""
    condition = find(new, type_)
    return condition if condition.get("status") == status != find(old, type_).get("status") else None


def _began(old: Mapping[str, Any], new: Mapping[str, Any], reason: Reason, event: str) -> list[Event]:
    now, before = find(new, "Reconciling"), find(old, "Reconciling")
    if now.get("reason") != reason or before.get("reason") == reason:
        return []
    return [Event("Normal", event, now["message"])]


def _knowledge_base(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Event]:
    found = _began(old, new, Reason.REFRESHING, "RefreshStarted")
    last = new.get("lastRefresh")
    if last and last["time"] != (old.get("lastRefresh") or {}).get("time"):
        counts = ("added", "updated", "removed", "unchanged", "failed")
        text = ", ".join(f"{last.get(name, 0)} {name}" for name in counts)
        found.append(Event("Warning" if last.get("failed") else "Normal", "RefreshFinished", text))
    if new.get("liveVersion") is not None and new["liveVersion"] != old.get("liveVersion"):
        text = f"version {new['liveVersion']} is live: {new['documents']} documents, {new['chunks']} chunks"
        found.append(Event("Normal", "VersionLive", text))
    return found


def _fine_tune_job(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Event]:
    found = _began(old, new, Reason.TRAINING, "TrainingStarted")
    latest, promoted = new.get("latestVersion"), new.get("promotedVersion")
    if latest is not None and latest != old.get("latestVersion"):
        found.append(Event("Normal", "AdapterRegistered", f"version {latest} is trained"))
    if promoted is not None and promoted != old.get("promotedVersion"):
        found.append(Event("Normal", "AdapterPromoted", f"version {promoted} is promoted"))
    return found


def _inference_deployment(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Event]:
    before = {each["name"]: each for each in old.get("adapters") or []}
    found = []
    for adapter in new.get("adapters") or []:
        earlier = before.get(adapter["name"], {}).get("version", "")
        if adapter["version"] and adapter["version"] != earlier:
            instead = f" instead of {earlier}" if earlier else ""
            found.append(Event("Normal", "AdapterSwapped", f"{adapter['version']} answers{instead}"))
    return found


async def record(kube: Kube, body: Body, event: Event, now: datetime) -> None:
    """Write an event. Its name is made of what it says, so that the same one is counted up, not repeated."""
    digest = hashlib.sha256("\0".join((body.uid, event.reason, event.message)).encode()).hexdigest()[:16]
    at = timestamp(now)
    try:
        await kube.record_event(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"{body.key.name}.{digest}", "namespace": body.key.namespace},
                "involvedObject": {
                    "apiVersion": API_VERSION,
                    "kind": body.key.kind,
                    "namespace": body.key.namespace,
                    "name": body.key.name,
                    "uid": body.uid,
                    "resourceVersion": body.version,
                },
                "type": event.type,
                "reason": event.reason,
                "message": event.message[:_MESSAGE_LENGTH],
                "source": {"component": "groundtune-operator"},
                "firstTimestamp": at,
                "lastTimestamp": at,
                "count": 1,
            }
        )
    except BackendError as error:  # an event is a courtesy: what it says is in the conditions too
        logger.warning("%s: event %s not recorded: %s", body.key, event.reason, error)
