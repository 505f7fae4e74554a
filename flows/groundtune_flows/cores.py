"""How many threads a model gets on a CPU that it shares.

Threads of a matrix product wait for each other: one that another program keeps from its core holds up all of them.
On two cores of which another program has one, two threads took three times as long over a training step as one.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import torch

#: Shortest time over which the use of the cores is measured, in seconds.
_WINDOW = 0.5
_STAT = Path("/proc/stat")


def fitting(most: int, cores: int, others: float) -> int:
    """Threads for the cores that other programs leave free, at least one and at most `most`.

    Args:
        others: cores that other programs keep busy, on average.
    """
    return max(1, min(most, round(cores - others)))


@dataclass(frozen=True)
class _Reading:
    at: float
    busy: float
    own: float


class SpareCores:
    """Keeps torch's threads, of the calling thread, to the cores that others leave free.

    Call `adjust` now and then, between pieces of work. Where the system doesn't tell (other than Linux), or the work
    is a GPU's, it changes nothing.
    """

    def __init__(self) -> None:
        self._most = torch.get_num_threads()
        self._told = _STAT.is_file() and not torch.cuda.is_available()
        self._before = _read() if self._told else None

    def adjust(self) -> None:
        """Set the number of threads by what the cores did since the last call."""
        if self._before is None or time.monotonic() - self._before.at < _WINDOW:
            return
        before, now = self._before, _read()
        self._before = now
        others = (now.busy - before.busy - (now.own - before.own)) / (now.at - before.at)
        threads = fitting(self._most, os.cpu_count() or 1, others)
        if threads != torch.get_num_threads():
            torch.set_num_threads(threads)


def _read() -> _Reading:
    user, nice, system, _, _, irq, softirq, steal = map(int, _STAT.read_text().split("\n", 1)[0].split()[1:9])
    own = os.times()
    busy = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return _Reading(time.monotonic(), busy, own.user + own.system)
