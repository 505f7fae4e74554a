"""The work queue and the cache."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from groundtune_operator.cache import FINALIZER, Body, Cache, Key
from groundtune_operator.work_queue import WorkQueue

Handle = Callable[[str], Awaitable[float | None]]


@asynccontextmanager
async def _queue(handle: Handle, workers: int = 2) -> AsyncIterator[WorkQueue[str]]:
    queue = WorkQueue(handle, workers=workers, base=0.01, cap=0.02, spacing=0.0)
    task = asyncio.create_task(queue.run())
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _settled(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():  # noqa: ASYNC110 - what is waited for is plain data
            await asyncio.sleep(0.005)


async def test_a_key_waits_once() -> None:
    seen: list[str] = []

    async def handle(key: str) -> None:
        seen.append(key)

    async with _queue(handle) as queue:
        for _ in range(5):
            queue.add("a", delay=0.01)
        queue.add("b", delay=0.05)
        await _settled(lambda: "b" in seen)
    assert seen == ["a", "b"]


async def test_a_key_added_while_it_is_worked_on_comes_again_and_never_beside_itself() -> None:
    active, most, count = 0, 0, 0
    gate = asyncio.Event()

    async def handle(key: str) -> None:
        nonlocal active, most, count
        active, count = active + 1, count + 1
        most = max(most, active)
        await gate.wait()
        active -= 1

    async with _queue(handle) as queue:
        queue.add("a")
        await _settled(lambda: active == 1)
        queue.add("a")
        queue.add("a")
        gate.set()
        await _settled(lambda: count == 2 and active == 0)
        await asyncio.sleep(0.05)
    assert (most, count) == (1, 2)


async def test_no_more_are_worked_on_than_there_are_workers() -> None:
    active, most, done = 0, 0, 0

    async def handle(key: str) -> None:
        nonlocal active, most, done
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.005)
        active, done = active - 1, done + 1

    async with _queue(handle, workers=3) as queue:
        for number in range(20):
            queue.add(str(number))
        await _settled(lambda: done == 20)
    assert most == 3


async def test_a_failure_comes_back_and_does_not_hold_up_the_others() -> None:
    seen: list[str] = []

    async def handle(key: str) -> None:
        seen.append(key)
        if key == "bad" and seen.count("bad") < 3:
            raise RuntimeError("not yet")

    async with _queue(handle) as queue:
        queue.add("bad")
        queue.add("good")
        await _settled(lambda: seen.count("bad") == 3)
    assert seen.count("good") == 1


async def test_it_comes_back_when_it_asks_to() -> None:
    seen: list[str] = []

    async def handle(key: str) -> float | None:
        seen.append(key)
        return 0.01 if len(seen) < 3 else None

    async with _queue(handle) as queue:
        queue.add("a")
        await _settled(lambda: len(seen) == 3)


async def test_the_back_off_doubles_up_to_its_cap_with_jitter() -> None:
    async def handle(key: str) -> None:
        return None

    least = WorkQueue(handle, workers=1, base=1.0, cap=60.0, jitter=lambda: 0.0)
    most = WorkQueue(handle, workers=1, base=1.0, cap=60.0, jitter=lambda: 1.0)
    assert [least.back_off(n) for n in (1, 2, 3, 10)] == [0.5, 1.0, 2.0, 30.0]
    assert [most.back_off(n) for n in (1, 2, 3, 10)] == [1.0, 2.0, 4.0, 60.0]


def _body(version: str, uid: str = "u", **metadata: Any) -> Body:
    named = {"namespace": "ns", "name": "docs", "uid": uid, "resourceVersion": version, **metadata}
    return Body({"kind": "KnowledgeBase", "metadata": named})


KEY = Key("KnowledgeBase", "ns", "docs")


def test_an_older_body_never_replaces_a_newer_one() -> None:
    cache = Cache()
    assert cache.put(_body("10"))
    assert not cache.put(_body("9"))
    assert not cache.put(_body("10"))
    found = cache.get(KEY)
    assert found is not None
    assert found.version == "10"


def test_a_new_resource_takes_the_name_of_a_deleted_one() -> None:
    cache = Cache()
    cache.put(_body("10", "old"))
    assert cache.put(_body("5", "new"))
    cache.remove(_body("10", "old"))  # the old one's last event comes late
    found = cache.get(KEY)
    assert found is not None
    assert (found.uid, cache.by_uid("old")) == ("new", None)


def test_a_deleted_resource_that_others_still_hold_is_forgotten() -> None:
    cache = Cache()
    cache.put(_body("1", finalizers=[FINALIZER]))
    deleted = {"deletionTimestamp": "2030-01-01T00:00:00Z"}
    cache.put(_body("2", finalizers=[FINALIZER, "theirs"], **deleted))
    assert cache.get(KEY) is not None
    cache.put(_body("3", finalizers=["theirs"], **deleted))
    assert cache.get(KEY) is None
