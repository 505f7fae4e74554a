"""Threads of a model on a CPU that it shares."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from groundtune_flows import cores
from groundtune_flows.cores import SpareCores, fitting


@pytest.mark.parametrize(
    ("most", "machine", "others", "expected"),
    [
        (2, 2, 0.0, 2),
        (2, 2, 0.4, 2),
        (2, 2, 1.0, 1),
        (2, 2, 2.0, 1),  # never none
        (2, 2, -0.1, 2),  # clock ticks are coarse
        (8, 64, 40.0, 8),  # what the process was given, however many are free
        (8, 8, 3.0, 5),
    ],
)
def test_threads_fit_the_cores_that_others_leave(
    most: int, machine: int, others: float, expected: int
) -> None:
    assert fitting(most, machine, others) == expected


@pytest.fixture
def threads() -> int:
    return torch.get_num_threads()


def test_a_busy_neighbour_takes_a_thread_and_gives_it_back(
    monkeypatch: pytest.MonkeyPatch, threads: int
) -> None:
    readings = iter(
        [
            cores._Reading(at=0.0, busy=0.0, own=0.0),
            cores._Reading(at=1.0, busy=2.0, own=1.0),  # another program had one of two cores
            cores._Reading(at=2.0, busy=4.0, own=3.0),  # alone again
        ]
    )
    clock = iter([1.0, 2.0])
    monkeypatch.setattr(cores, "_read", lambda: next(readings))
    monkeypatch.setattr("groundtune_flows.cores.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("groundtune_flows.cores.os.cpu_count", lambda: 2)
    try:
        torch.set_num_threads(2)
        spare = SpareCores()
        spare.adjust()
        assert torch.get_num_threads() == 1
        spare.adjust()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)


def test_the_reading_counts_a_neighbour_and_not_oneself() -> None:
    before = cores._read()
    subprocess.run([sys.executable, "-c", "sum(range(20_000_000))"], check=True)
    after = cores._read()
    assert after.busy > before.busy
    assert after.own - before.own < after.busy - before.busy
