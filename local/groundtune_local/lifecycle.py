"""Bring a stack up, follow it, and take it down: what `groundtune up` and `down` and the demo share."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from groundtune_local import processes
from groundtune_local.stack import Stack, StackError, port_is_free
from groundtune_local.supervisor import PartState, lock

#: What the stack itself needs to begin with: databases, logs, and models the first time.
_FREE_GIB = 1

Report = Callable[[str, PartState], None]


@dataclass(frozen=True)
class Snapshot:
    """What the supervisor last wrote: its process id (0: not running), and every part."""

    pid: int
    parts: dict[str, PartState]

    @property
    def ready(self) -> bool:
        return bool(self.pid and self.parts) and all(part.state == "ready" for part in self.parts.values())


def running(data: Path) -> bool:
    """Whether a supervisor holds the stack in `data`."""
    held = lock(data) if data.is_dir() else None
    if held is not None:
        held.close()
    return data.is_dir() and held is None


def observe(data: Path) -> Snapshot:
    """The stack's state now."""
    try:
        facts = json.loads((data / "state.json").read_text(encoding="utf-8"))
    except OSError:
        return Snapshot(0, {})
    parts = {name: PartState(**state) for name, state in facts["parts"].items()}
    return Snapshot(facts["pid"] if running(data) else 0, parts)


def launch(stack: Stack, *, tied: bool) -> subprocess.Popen[bytes]:
    """Start the supervisor; `tied`: it stops when this process ends, however it ends."""
    log = stack.folder("logs") / "supervisor.log"
    (stack.data / "state.json").unlink(missing_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "groundtune_local.supervisor", "--data-dir", str(stack.data)),
                *(["--tied"] if tied else []),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
        )


def follow(data: Path, supervisor: subprocess.Popen[bytes], report: Report) -> None:
    """Report every change of a part until all are ready.

    Raises:
        StackError: a part failed, or the supervisor ended.
    """
    for name, part in _changes(data, supervisor):
        report(name, part)
        if part.state == "failed":
            raise StackError(f"{part.title}: {part.message}")


def _changes(data: Path, supervisor: subprocess.Popen[bytes]) -> Iterator[tuple[str, PartState]]:
    seen: dict[str, PartState] = {}
    while True:
        ended = supervisor.poll() is not None
        now = observe(data)
        for name, part in now.parts.items():
            if seen.get(name) != part:
                seen[name] = part
                yield name, part
        if now.ready:
            return
        if ended:
            raise StackError(f"the supervisor ended early; see {data / 'logs' / 'supervisor.log'}")
        time.sleep(0.2)


def open_stack(data: Path, context: str | None, *, new_ports: bool) -> Stack:
    """The stack to start, with free ports.

    Raises:
        StackError: it runs already, the disk is full, or a port is taken and `new_ports` is off.
    """
    if running(data):
        raise StackError(f"the stack in {data} is running; see it with: groundtune status --data-dir {data}")
    first = not Stack.recorded(data)
    _require_disk(data)
    stack = Stack.open(data, context)
    taken = [name for name, port in stack.ports.items() if not port_is_free(port)]
    if taken and (new_ports or first):
        stack = stack.with_free_ports(taken)
        stack.save()
    elif taken:
        listed = ", ".join(f"{stack.ports[name]} ({name})" for name in taken)
        raise StackError(
            f"port {listed} is taken by another program; stop it, or take others with --new-ports"
        )
    return stack


def _require_disk(data: Path) -> None:
    there = next(folder for folder in (data, *data.parents) if folder.is_dir())
    free = shutil.disk_usage(there).free / 2**30
    if free < _FREE_GIB:
        raise StackError(
            f"{free:.1f} GiB are free on the disk of {data} and {_FREE_GIB} are needed; free some, or take a folder "
            "on another disk with --data-dir"
        )


def shut_down(data: Path, *, grace: float = 90) -> bool:
    """Stop the stack in `data` and whatever is left of it; False if there was nothing to stop."""
    alive = running(data)
    pid = observe(data).pid if alive else 0
    if pid:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while running(data) and time.monotonic() < deadline:
            time.sleep(0.1)
        if running(data):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    left = next(processes.marked(data), None) is not None
    processes.sweep(data)
    return alive or left
