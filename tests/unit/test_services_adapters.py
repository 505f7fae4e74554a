"""How adapter versions follow each other, with an engine that only keeps a list."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from groundtune.serving import AdapterTarget
from groundtune_services import adapters as module
from groundtune_services.adapters import AdapterError, Adapters


class ListedEngine:
    """Loads what is not in `bad`, when `gate` is open."""

    def __init__(self) -> None:
        self.loaded: list[str] = []
        self.bad: dict[str, str] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def load(self, version: str, folder: Path) -> None:
        await self.gate.wait()
        if version in self.bad:
            raise AdapterError(self.bad[version])
        self.loaded.append(version)

    async def unload(self, version: str) -> None:
        self.loaded.remove(version)


def target(version: str) -> AdapterTarget:
    return AdapterTarget(alias="style", name=version, path=version)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():  # noqa: ASYNC110  # what is awaited has no event
            await asyncio.sleep(0.005)


@pytest.fixture
async def engine() -> ListedEngine:
    return ListedEngine()


@pytest.fixture
async def adapters(engine: ListedEngine, tmp_path: Path) -> AsyncIterator[Adapters]:
    made = Adapters(engine, tmp_path)
    yield made
    await made.close()


async def test_a_version_answers_only_once_it_is_loaded(engine: ListedEngine, adapters: Adapters) -> None:
    engine.gate.clear()
    adapters.declare([target("style-v1")])
    assert adapters.answering is None
    assert [each.state for each in adapters.readiness()] == ["Loading"]
    engine.gate.set()
    await until(lambda: adapters.answering == "style-v1")
    assert [(each.name, each.state) for each in adapters.readiness()] == [("style-v1", "Loaded")]


async def test_the_old_one_answers_until_the_new_one_does(engine: ListedEngine, adapters: Adapters) -> None:
    adapters.declare([target("style-v1")])
    await until(lambda: adapters.answering == "style-v1")
    engine.gate.clear()
    adapters.declare([target("style-v2")])
    assert adapters.answering == "style-v1"
    assert [(each.name, each.state) for each in adapters.readiness()] == [("style-v1", "Loading")]
    engine.gate.set()
    await until(lambda: engine.loaded == ["style-v2"])
    assert adapters.answering == "style-v2"


async def test_the_old_one_stays_loaded_for_who_uses_it(engine: ListedEngine, adapters: Adapters) -> None:
    adapters.declare([target("style-v1")])
    await until(lambda: adapters.answering == "style-v1")
    first, second = adapters.lease("style-v1"), adapters.lease("style-v1")
    adapters.declare([target("style-v2")])
    await until(lambda: adapters.answering == "style-v2")
    first.release()
    first.release()
    await asyncio.sleep(0.05)
    assert engine.loaded == ["style-v1", "style-v2"]
    second.release()
    await until(lambda: engine.loaded == ["style-v2"])


async def test_a_bad_one_is_refused_with_its_reason(engine: ListedEngine, adapters: Adapters) -> None:
    engine.bad["style-v2"] = "rank 64 is too much"
    adapters.declare([target("style-v1")])
    await until(lambda: adapters.answering == "style-v1")
    adapters.declare([target("style-v2")])
    await until(lambda: adapters.readiness()[0].state == "Failed")
    assert adapters.answering == "style-v1"
    assert adapters.readiness()[0].message == "rank 64 is too much"
    adapters.declare([target("style-v1")])
    assert adapters.readiness()[0].state == "Loaded"


async def test_what_did_not_load_is_tried_again(
    engine: ListedEngine, adapters: Adapters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_FIRST_RETRY", 0.01)
    engine.bad["style-v1"] = "its files are not there yet"
    adapters.declare([target("style-v1")])
    await until(lambda: adapters.readiness()[0].state == "Failed")
    del engine.bad["style-v1"]
    await until(lambda: adapters.answering == "style-v1")


async def test_what_was_declared_last_wins(engine: ListedEngine, adapters: Adapters) -> None:
    engine.gate.clear()
    for version in ("style-v1", "style-v2", "style-v3"):
        adapters.declare([target(version)])
        await asyncio.sleep(0)
    engine.gate.set()
    await until(lambda: adapters.answering == "style-v3" and engine.loaded == ["style-v3"])


async def test_no_longer_declared_is_unloaded(engine: ListedEngine, adapters: Adapters) -> None:
    adapters.declare([target("style-v1")])
    await until(lambda: adapters.answering == "style-v1")
    adapters.declare([])
    assert adapters.answering is None
    assert adapters.readiness() == []
    await until(lambda: engine.loaded == [])
