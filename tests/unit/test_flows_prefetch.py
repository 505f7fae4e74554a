"""The thread between pipeline stages."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from groundtune_flows.prefetch import prefetch


def test_everything_arrives_in_order() -> None:
    assert list(prefetch(range(100), depth=3)) == list(range(100))


def test_an_error_arrives_after_what_came_before_it() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    got = []
    with pytest.raises(ValueError, match="broken"):
        for item in prefetch(failing()):
            got.append(item)
    assert got == [1]


def test_it_works_ahead() -> None:
    ahead = threading.Event()

    def items() -> Iterator[int]:
        yield 1
        ahead.set()
        yield 2

    iterator = prefetch(items())
    assert next(iterator) == 1
    assert ahead.wait(timeout=10)
    assert list(iterator) == [2]


def test_a_caller_that_stops_ends_the_thread() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    iterator = prefetch(endless())
    next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "prefetch"]
