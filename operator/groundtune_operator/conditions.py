"""Conditions, as kstatus reads them: all of a kind's types are always there, and a time moves only with a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

_MESSAGE_LENGTH = 4096

Status = Literal["True", "False", "Unknown"]


@dataclass(frozen=True)
class Verdict:
    """What a reconciliation found about one aspect."""

    type: str
    status: Status
    reason: str
    message: str = ""


def verdict(type_: str, holds: bool | None, reason: str, message: str = "") -> Verdict:
    """A verdict from a truth value; None is Unknown."""
    status: Status = "Unknown" if holds is None else "True" if holds else "False"
    return Verdict(type_, status, str(reason), message)


def timestamp(at: datetime) -> str:
    """As Kubernetes writes a time: UTC, to the second."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def merge(
    previous: Sequence[Mapping[str, Any]], verdicts: Sequence[Verdict], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The verdicts as conditions; one whose status is what it was keeps its lastTransitionTime."""
    before = {condition.get("type"): condition for condition in previous}
    merged = []
    for found in verdicts:
        old = before.get(found.type, {})
        same = old.get("status") == found.status and old.get("lastTransitionTime")
        merged.append(
            {
                "type": found.type,
                "status": found.status,
                "reason": found.reason,
                "message": found.message[:_MESSAGE_LENGTH],
                "observedGeneration": generation,
                "lastTransitionTime": old["lastTransitionTime"] if same else timestamp(now),
            }
        )
    return merged


def find(status: Mapping[str, Any], type_: str) -> Mapping[str, Any]:
    """A condition of a resource's status; empty if it is not there."""
    for condition in status.get("conditions") or []:
        if condition.get("type") == type_:
            found: Mapping[str, Any] = condition
            return found
    return {}
