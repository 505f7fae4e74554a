"""Child processes that end with their parent, whatever ends it."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from groundtune_local.stack import MARKER

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def spawn(
    command: list[str], *, environment: dict[str, str], log: Path, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a part of the stack in a process group of its own, its output appended to `log`."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            process_group=0,
            preexec_fn=die_with_parent,
        )


def stop(process: subprocess.Popen[bytes], *, number: int = signal.SIGTERM, grace: float = 15) -> None:
    """Signal a part, wait up to `grace` seconds, then kill its whole group."""
    with suppress(ProcessLookupError):
        process.send_signal(number)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace)
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def marked(data: Path) -> Iterator[int]:
    """Ids of all processes that belong to the stack in `data`, but for this one."""
    wanted = f"{MARKER}={data}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if wanted in (entry / "environ").read_bytes().split(b"\0"):
                    yield int(entry.name)


def _request(pid: int) -> signal.Signals:
    """What asks a process to end. Postgres would wait for its clients at SIGTERM, and killed, leave shared memory."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/comm").read_text() == "postgres\n":
            return signal.SIGINT
    return signal.SIGTERM


def sweep(data: Path, *, grace: float = 5, spare: int = 0) -> None:
    """End every process of the stack that is still there: first asked, then killed."""
    deadline = time.monotonic() + grace
    asked: set[int] = set()
    while left := [pid for pid in marked(data) if pid != spare]:
        late = time.monotonic() > deadline
        for pid in left:
            if late or pid not in asked:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL if late else _request(pid))
        asked.update(left)
        if time.monotonic() > deadline + grace:
            return
        time.sleep(0.1)


def watchdog(data: Path) -> subprocess.Popen[bytes]:
    """A process that outlives this one only to end what it may leave behind (a kill -9, say)."""
    environment = {key: value for key, value in os.environ.items() if key != MARKER}
    return subprocess.Popen(
        [sys.executable, "-m", "groundtune_local.processes", str(data)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    sys.stdin.buffer.read()  # ends when the supervisor does
    sweep(Path(sys.argv[1]))
