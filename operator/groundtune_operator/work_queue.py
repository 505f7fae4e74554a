"""A work queue: a key waits in it once, is worked on by one at a time, and comes back later after a failure."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import logging
import random
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

logger = logging.getLogger(__name__)


K = TypeVar("K", bound=Hashable)


class WorkQueue(Generic[K]):
    """Calls `handle(key)` for every key added.

    A key added while it waits keeps the earlier time; one added while it is worked on is worked on again after.
    `handle` returns seconds until the key is due again, or None. When it raises, the key comes back after a
    back-off that doubles up to `cap`, with jitter so that many failures at once don't return at once; errors that
    are `expected` are logged without a trace.
    """

    def __init__(
        self,
        handle: Callable[[K], Awaitable[float | None]],
        *,
        workers: int,
        base: float = 1.0,
        cap: float = 60.0,
        spacing: float = 0.2,
        jitter: Callable[[], float] = random.random,
        expected: type[Exception] | tuple[type[Exception], ...] = (),
    ) -> None:
        self._handle = handle
        self._workers = asyncio.Semaphore(workers)
        self._base, self._cap, self._spacing, self._jitter = base, cap, spacing, jitter
        self._expected = expected
        self._order = itertools.count()
        self._heap: list[tuple[float, int, K]] = []
        self._due: dict[K, float] = {}
        self._active: set[K] = set()
        self._again: dict[K, float] = {}
        self._failures: dict[K, int] = {}
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, key: K, delay: float = 0.0) -> None:
        """Ask for `key` to be handled once `delay` seconds have passed."""
        due = asyncio.get_running_loop().time() + delay
        if key in self._active:
            self._again[key] = min(due, self._again.get(key, due))
            return
        if self._due.get(key, due + 1) <= due:
            return
        self._due[key] = due
        heapq.heappush(self._heap, (due, next(self._order), key))
        self._changed.set()

    def back_off(self, failures: int) -> float:
        """Seconds to wait after so many failures in a row: between half of the doubled time and all of it."""
        whole = min(self._cap, self._base * 2.0 ** (failures - 1))
        return whole * (0.5 + 0.5 * self._jitter())

    async def run(self) -> None:
        """Work until cancelled; what is in hand then is cancelled too."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                self._changed.clear()
                while self._heap and self._heap[0][0] <= loop.time():
                    due, _, key = heapq.heappop(self._heap)
                    if self._due.get(key) != due:
                        continue  # replaced by an earlier time
                    del self._due[key]
                    self._active.add(key)
                    await self._workers.acquire()
                    task = asyncio.create_task(self._work(key))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                wait = self._heap[0][0] - loop.time() if self._heap else None
                try:
                    await asyncio.wait_for(self._changed.wait(), wait)
                except TimeoutError:
                    continue
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _work(self, key: K) -> None:
        loop = asyncio.get_running_loop()
        delay: float | None = None
        try:
            delay = await self._handle(key)
            self._failures.pop(key, None)
        except Exception as error:
            self._failures[key] = self._failures.get(key, 0) + 1
            delay = self.back_off(self._failures[key])
            said = str(error) or type(error).__name__
            trace = not isinstance(error, self._expected)
            logger.warning("%s: %s; again in %.0f s", key, said, delay, exc_info=trace)
        finally:
            self._workers.release()
            self._active.discard(key)
        again = self._again.pop(key, None)
        if again is not None:
            soon = max(again - loop.time(), self._spacing)
            delay = soon if delay is None else min(soon, delay)
        if delay is not None:
            self.add(key, delay)
