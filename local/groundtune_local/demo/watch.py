"""What the operator says, as it changes."""

from __future__ import annotations

import json
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from rich.console import Console

from groundtune.api import GROUP
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import StackError

Objects = dict[str, dict[str, Any]]

RESOURCES = ("kb/support-docs", "ftj/support-voice", "infd/support-bot")

_RETRY_SECONDS = 1.0
#: Percent between two rows of a run that is otherwise as it was.
_STRIDE = 20
#: Of columns whose cells are wider than their headings.
_WIDTHS = {"NAME": 31, "REASON": 17, "STAGE": 12}


class Watch:
    """Prints `kubectl get` rows when they change, until something holds. A context manager."""

    def __init__(self, kubectl: Kubectl, console: Console, started: float) -> None:
        self._kubectl = kubectl
        self._console = console
        self._started = started
        self._told: dict[str, tuple[str, ...]] = {}
        self._headings: set[tuple[str, ...]] = set()
        self._changed = threading.Condition()
        self._objects: Objects = {}
        self._printed: list[str] = []
        self._watching: dict[str, subprocess.Popen[str]] = {}
        self._closed = threading.Event()

    def __enter__(self) -> Watch:
        """Follow the resources, which have to be there, from now on."""
        for name in RESOURCES:
            threading.Thread(target=self._follow, args=(name,), daemon=True, name=f"watch {name}").start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        for process in self._watching.values():
            process.terminate()

    def until(self, what: str, holds: Callable[[Objects], bool], *, seconds: float = 600) -> float:
        """Seconds it took.

        Raises:
            StackError: it did not hold in time, or a resource says Stalled.
        """
        began = time.monotonic()
        while True:
            with self._changed:
                objects = dict(self._objects)
            if len(objects) == len(RESOURCES):
                versions = [objects[name]["metadata"]["resourceVersion"] for name in RESOURCES]
                if versions != self._printed:
                    self._printed = versions
                    self._print_changes()
                if holds(objects):
                    return time.monotonic() - began
                _require_progress(objects)
            left = seconds - (time.monotonic() - began)
            if left <= 0:
                said = "; ".join(f"{name}: {condition(found, 'Ready')}" for name, found in objects.items())
                raise StackError(f"waited {seconds:.0f} s for {what}: {said}")
            with self._changed:
                self._changed.wait_for(lambda seen=objects: self._objects != seen, timeout=left)  # type: ignore[misc]

    def _follow(self, name: str) -> None:
        while not self._closed.is_set():
            process = self._watching[name] = self._kubectl.watch(name)
            assert process.stdout is not None
            for found in _documents(process.stdout):
                with self._changed:
                    self._objects[name] = found
                    self._changed.notify_all()
            process.wait()  # the API server ends a watch now and then
            self._closed.wait(_RETRY_SECONDS)

    def _print_changes(self) -> None:
        """Print the rows that say something new; a heading only before the first of each kind."""
        for row in rows(self._kubectl.run("get", "kb,ftj,infd")):
            name = row["NAME"]
            if self._told.get(name) == (now := news(row)):
                continue
            self._told[name] = now
            if tuple(row) not in self._headings:
                self._headings.add(tuple(row))
                self._console.print(f"[dim]        {_line({each: each for each in row})}[/]", soft_wrap=True)
            minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
            self._console.print(f"  {minutes}:{seconds:02d}  {_line(row)}", soft_wrap=True, markup=False)


def rows(printed: str) -> Iterator[dict[str, str]]:
    """The cells of `kubectl get` by column, as they stand below the headings; a cell may be empty."""
    starts: dict[str, int] = {}
    for line in printed.splitlines():
        if line.startswith("NAME"):
            starts = {found[0]: found.start() for found in re.finditer(r"\S+", line)}
        elif line.strip():
            ends = [*list(starts.values())[1:], len(line)]
            cells = zip(starts.items(), ends, strict=True)
            row = {column: line[start:end].strip() for (column, start), end in cells}
            yield row | {"NAME": row["NAME"].replace(f".{GROUP}/", "/")}


def news(row: dict[str, str]) -> tuple[str, ...]:
    """What makes a row worth printing again: not that it is older, nor each step of a long run."""
    steps = row.get("PERCENT", "")
    coarse = {"AGE": "", "PERCENT": str(int(steps) // _STRIDE) if steps.isdigit() else steps}
    return tuple((row | {name: said for name, said in coarse.items() if name in row}).values())


def _line(row: dict[str, str]) -> str:
    return "  ".join(
        f"{said:<{_WIDTHS.get(name, len(name))}}" for name, said in row.items() if name != "AGE"
    ).rstrip()


def _documents(lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """JSON objects as kubectl prints them: indented, each closed by a brace that stands alone in its line."""
    pending: list[str] = []
    for line in lines:
        pending.append(line)
        if line.rstrip("\n") == "}":
            yield json.loads("".join(pending))
            pending = []


def _require_progress(objects: Objects) -> None:
    for name, found in objects.items():
        stalled = condition(found, "Stalled")
        if stalled.get("status") == "True":
            raise StackError(f"{name} is stalled: {stalled.get('reason')}: {stalled.get('message')}")


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
