"""What the operator says, as it changes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import StackError

Objects = dict[str, dict[str, Any]]

RESOURCES = ("kb/support-docs", "ftj/support-voice", "infd/support-bot")


class Watch:
    """Prints `kubectl get` rows when they change, until something holds."""

    def __init__(self, kubectl: Kubectl, console: Console, started: float) -> None:
        self._kubectl = kubectl
        self._console = console
        self._started = started
        self._rows: dict[str, str] = {}
        self._headers: set[str] = set()
        self._versions: list[str] = []

    def until(self, what: str, holds: Callable[[Objects], bool], *, seconds: float = 600) -> float:
        """Seconds it took.

        Raises:
            StackError: it did not hold in time, or a resource says Stalled.
        """
        began = time.monotonic()
        while True:
            objects = self._objects()
            versions = [found["metadata"]["resourceVersion"] for found in objects.values()]
            if versions != self._versions:
                self._versions = versions
                self._print_changes()
            if holds(objects):
                return time.monotonic() - began
            for name, found in objects.items():
                stalled = condition(found, "Stalled")
                if stalled.get("status") == "True":
                    raise StackError(f"{name} is stalled: {stalled.get('reason')}: {stalled.get('message')}")
            if time.monotonic() - began > seconds:
                said = "; ".join(f"{name}: {condition(found, 'Ready')}" for name, found in objects.items())
                raise StackError(f"waited {seconds:.0f} s for {what}: {said}")
            time.sleep(1)

    def _objects(self) -> Objects:
        listed = json.loads(self._kubectl.run("get", *RESOURCES, "--output", "json"))["items"]
        return dict(zip(RESOURCES, listed, strict=True))

    def _print_changes(self) -> None:
        header = ""
        for line in self._kubectl.run("get", "kb,ftj,infd").splitlines():
            if line.startswith("NAME"):
                header = line
            elif line.strip():
                # The age changes always and says nothing; it is the last column.
                row = line.rsplit(None, 1)[0]
                name = line.split(None, 1)[0]
                if self._rows.get(name) != row:
                    self._rows[name] = row
                    if header not in self._headers:
                        self._headers.add(header)
                        self._console.print(f"[dim]        {_narrow(header)}[/]", soft_wrap=True, markup=True)
                    minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
                    self._console.print(
                        f"  {minutes}:{seconds:02d}  {_narrow(row)}", soft_wrap=True, markup=False
                    )


def _narrow(row: str) -> str:
    return row.replace(".groundtune.io", "").rstrip()


def condition(found: dict[str, Any], kind: str) -> dict[str, Any]:
    """The condition of that type, or an empty one."""
    conditions = found.get("status", {}).get("conditions", [])
    return next((entry for entry in conditions if entry["type"] == kind), {})


def is_ready(found: dict[str, Any]) -> bool:
    """Whether Ready is True for the spec as it is now."""
    ready = condition(found, "Ready")
    return (
        ready.get("status") == "True" and ready.get("observedGeneration") == found["metadata"]["generation"]
    )
