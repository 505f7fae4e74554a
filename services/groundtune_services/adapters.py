"""Adapter versions: loaded beside the old, proven, then swapped in; unloaded when no request uses them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from groundtune.serving import AdapterReadiness, AdapterTarget
from groundtune_services.metrics import ADAPTER_LOADS

_log = logging.getLogger(__name__)

#: A version that did not load is tried again: its files may be on the way. Seconds, doubled up to the last.
_FIRST_RETRY, _LAST_RETRY = 5.0, 300.0


class AdapterError(Exception):
    """A version that can't answer, with the reason for the person who declared it."""


class AdapterEngine(Protocol):
    """What has the weights."""

    async def load(self, version: str, folder: Path) -> None:
        """Load a version and produce a token with it.

        Raises:
            AdapterError: it did not; nothing of it stays loaded.
        """

    async def unload(self, version: str) -> None: ...


@dataclass
class _Slot:
    """An alias: the version that answers (empty: none), and how the declared one is doing."""

    target: AdapterTarget
    version: str = ""
    failure: str = ""

    def readiness(self) -> AdapterReadiness:
        if self.version == self.target.name:
            return AdapterReadiness(alias=self.target.alias, name=self.version, state="Loaded")
        state = "Failed" if self.failure else "Loading"
        return AdapterReadiness(alias=self.target.alias, name=self.version, state=state, message=self.failure)


class Lease:
    """Keeps a version loaded until the request that it was taken for is over."""

    def __init__(self, adapters: Adapters, version: str) -> None:
        self._adapters: Adapters | None = adapters
        self.version = version

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        adapters, self._adapters = self._adapters, None
        if adapters is not None:
            adapters._released(self.version)


class Adapters:
    """The declared adapters of one replica, brought about in the background."""

    def __init__(self, engine: AdapterEngine, artifacts: Path) -> None:
        self._engine = engine
        self._artifacts = artifacts
        self._slots: dict[str, _Slot] = {}
        self._users: dict[str, int] = {}
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._settled = asyncio.Event()

    def declare(self, targets: Sequence[AdapterTarget]) -> None:
        """What should answer from now on; returns at once."""
        kept = self._slots
        self._slots = {}
        for target in targets:
            slot = kept.get(target.alias) or _Slot(target)
            if slot.target != target:
                slot = _Slot(target, version=slot.version)
            self._slots[target.alias] = slot
        self._wake.set()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="adapters")

    @property
    def answering(self) -> str | None:
        """The version that the first declared adapter answers with now."""
        for slot in self._slots.values():
            return slot.version or None
        return None

    def lease(self, version: str) -> Lease:
        """Keep a version that answers now until the lease is released."""
        self._users[version] += 1
        return Lease(self, version)

    def readiness(self) -> list[AdapterReadiness]:
        return [slot.readiness() for slot in self._slots.values()]

    async def settled(self) -> None:
        """Wait until every adapter declared at first has been tried once."""
        await self._settled.wait()

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _released(self, version: str) -> None:
        self._users[version] -= 1
        if not self._users[version]:
            self._wake.set()

    async def _run(self) -> None:
        delay = _FIRST_RETRY
        while True:
            self._wake.clear()
            failed = await self._converge()
            self._settled.set()
            if not failed:
                delay = _FIRST_RETRY
            try:
                async with asyncio.timeout(delay if failed else None):
                    await self._wake.wait()
            except TimeoutError:
                delay = min(2 * delay, _LAST_RETRY)

    async def _converge(self) -> bool:
        """Load what is declared and unload what nobody needs; whether something did not load."""
        for slot in list(self._slots.values()):
            if slot.version != slot.target.name:
                await self._swap(slot)
        await self._unload_idle()
        return any(slot.failure for slot in self._slots.values())

    async def _swap(self, slot: _Slot) -> None:
        target = slot.target
        if target.name not in self._users:
            try:
                await self._engine.load(target.name, self._artifacts / target.path)
            except AdapterError as error:
                ADAPTER_LOADS.labels("failed").inc()
                _log.warning("adapter %s refused: %s", target.name, error)
                slot.failure = str(error)
                return
            ADAPTER_LOADS.labels("loaded").inc()
            self._users[target.name] = 0
        # It may have been declared otherwise meanwhile: then this slot is not looked at any more.
        slot.version, slot.failure = target.name, ""
        _log.info("adapter %s answers as %s", target.name, target.alias)

    async def _unload_idle(self) -> None:
        needed = {slot.version for slot in self._slots.values()}
        for version in [name for name, users in self._users.items() if not users and name not in needed]:
            del self._users[version]
            await self._engine.unload(version)
