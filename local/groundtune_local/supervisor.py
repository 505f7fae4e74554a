"""Starts a stack's parts together, watches them, restarts what ends, and stops them in order."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from groundtune_local import processes
from groundtune_local.components import Component, components
from groundtune_local.stack import Stack, StackError, port_is_free

_RESTART_LIMIT = 3  # in a row, without having worked in between
_STOP_ORDER = ("operator", "worker", "ray", "control-plane", "prefect", "postgres")


@dataclass(frozen=True)
class PartState:
    """How a part stands: `waiting`, `starting`, `ready`, `restarting`, `failed` or `stopped`."""

    title: str
    state: str = "waiting"
    message: str = ""
    seconds: float = 0.0
    pid: int = 0
    restarts: int = 0


class Supervisor:
    """Runs a stack until told to stop. Its state is in `state.json`, for whoever follows it."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._parts = components(stack)
        self._states = {part.name: PartState(part.title) for part in self._parts}
        self._ready = {part.name: threading.Event() for part in self._parts}
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._write()

    def run(self) -> None:
        """Start everything and return once it has been stopped."""
        threads = [threading.Thread(target=self._keep, args=(part,), daemon=True) for part in self._parts]
        for thread in threads:
            thread.start()
        self._stopping.wait()
        self._stop_all()
        for thread in threads:
            thread.join(2)

    def stop(self) -> None:
        """End `run`; safe to call from a signal handler and twice."""
        self._stopping.set()

    def _keep(self, part: Component) -> None:
        failures = 0
        while all(self._wait_for(name) for name in part.needs if name in self._ready):
            started = time.monotonic()
            try:
                process = self._start(part)
            except (StackError, OSError) as error:
                self._set(part, "failed", str(error))  # no restart mends a taken port or a full disk
                return
            problem = self._run_until_it_ends(part, process, started)
            if self._stopping.is_set():
                return
            failures = 1 if self._ready[part.name].is_set() else failures + 1
            self._ready[part.name].clear()
            if failures >= _RESTART_LIMIT:
                self._set(part, "failed", problem)
                return
            self._set(part, "restarting", problem)
            self._stopping.wait(min(2**failures, 30))

    def _run_until_it_ends(self, part: Component, process: subprocess.Popen[bytes], started: float) -> str:
        try:
            self._become_ready(part, process, started)
        except (StackError, OSError) as error:
            processes.stop(process)
            return f"{error}{self._last_line(part)}"
        return f"ended with code {process.wait()}{self._last_line(part)}"

    def _wait_for(self, name: str) -> bool:
        while not self._ready[name].wait(0.2):
            if self._stopping.is_set():
                return False
        return True

    def _start(self, part: Component) -> subprocess.Popen[bytes]:
        taken = [name for name in part.ports if not port_is_free(self._stack.ports[name])]
        if taken:
            listed = ", ".join(f"{self._stack.ports[name]} ({name})" for name in taken)
            raise StackError(
                f"port {listed} is taken by another program; stop it, or: groundtune up --new-ports"
            )
        self._set(part, "starting", "")
        part.prepare(self._stack)
        command = part.command(self._stack)
        with self._lock:
            if self._stopping.is_set():
                raise StackError("stopping")
            process = processes.spawn(command, environment=self._environment(part), log=self._log(part))
            self._running[part.name] = process
        return process

    def _environment(self, part: Component) -> dict[str, str]:
        # Set for each part last, as it is what finds a process that outlived everything else.
        return part.environment(self._stack) | {"GROUNDTUNE_STACK": str(self._stack.data)}

    def _become_ready(self, part: Component, process: subprocess.Popen[bytes], started: float) -> None:
        while True:
            if process.poll() is not None:
                raise StackError(f"ended with code {process.returncode}")
            try:
                message = part.check(self._stack)
                break
            except Exception as error:  # not there yet, whatever the client library calls it
                if time.monotonic() - started > part.first_seconds:
                    raise StackError(f"did not answer within {part.first_seconds:.0f} s: {error}") from error
            if self._stopping.wait(0.5):
                raise StackError("stopping")
        part.ready(self._stack)
        self._ready[part.name].set()
        self._set(part, "ready", message, seconds=time.monotonic() - started, pid=process.pid)

    def _stop_all(self) -> None:
        with self._lock:
            running = dict(self._running)
        for name in _STOP_ORDER:
            part = next((part for part in self._parts if part.name == name), None)
            if part is not None and name in running:
                processes.stop(running[name], number=part.stop_signal)
                self._set(part, "stopped", "")
        processes.sweep(self._stack.data)

    def _log(self, part: Component) -> Path:
        return self._stack.folder("logs") / f"{part.name}.log"

    def _last_line(self, part: Component) -> str:
        with suppress(OSError):
            lines = self._log(part).read_text(encoding="utf-8", errors="replace").strip().splitlines()
            if lines:
                return f": {lines[-1].strip()[:300]} (log: {self._log(part)})"
        return ""

    def _set(self, part: Component, state: str, message: str, seconds: float = 0.0, pid: int = 0) -> None:
        before = self._states[part.name]
        restarts = before.restarts + (state == "restarting")
        self._states[part.name] = PartState(
            part.title, state, message, seconds or before.seconds, pid or before.pid, restarts
        )
        self._write()

    def _write(self) -> None:
        with self._lock:
            facts = {name: asdict(state) for name, state in self._states.items()}
            building = self._stack.data / f"state.{threading.get_ident()}.tmp"
            building.write_text(json.dumps({"pid": os.getpid(), "parts": facts}), encoding="utf-8")
            building.replace(self._stack.data / "state.json")


def lock(data: Path) -> IO[str] | None:
    """The lock that a stack's supervisor holds while it lives, or None if another process has it."""
    data.mkdir(parents=True, exist_ok=True)
    file = (data / "supervisor.lock").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def main() -> int:
    """`python -m groundtune_local.supervisor --data-dir DIR`; started by `groundtune up`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--tied", action="store_true", help="stop when the process that started it ends")
    arguments = parser.parse_args()
    if arguments.tied:
        processes.die_with_parent()
    held = lock(arguments.data_dir)
    if held is None:
        return 1
    stack = Stack.load(arguments.data_dir)
    processes.sweep(stack.data)  # what a killed predecessor may have left
    guard = processes.watchdog(stack.data)
    supervisor = Supervisor(stack)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: supervisor.stop())
    supervisor.run()
    guard.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
