"""The operator while something it needs is away, dead or silent."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from operator_world import Gate, ServeRecorder, World, eventually
from sqlalchemy import text

from groundtune.registry.facts import read_facts, run_lock

KB = "KnowledgeBase"
SPEC: dict[str, Any] = {"sources": [{"volume": {"claimName": "docs"}}]}


@pytest.fixture
def world(kubeconfig: Path, postgres_url: str, prefect_url: str, tmp_path: Path) -> Iterator[World]:
    serve = ServeRecorder()
    serve.start()
    yield World(kubeconfig, postgres_url, prefect_url, serve, tmp_path)
    serve.stop()


def _live(world: World, name: str) -> None:
    world.apply(KB, name, SPEC)
    world.refresh(world.wait_runs(KB, name, 1), "Nimbus hubs blink blue.")
    world.wait(KB, name, "Ready", "True")


def test_prefect_may_come_later(world: World) -> None:
    address = urlsplit(world.prefect_url)
    gate = Gate(lambda: socket.create_connection((address.hostname, address.port)))
    with world.operator(PREFECT_API_URL=f"http://127.0.0.1:{gate.port}/api"):
        world.apply(KB, "early", SPEC)
        waiting = world.wait(KB, "early", "Reconciling", "True", "PrefectUnavailable")
        assert str(gate.port) in waiting["message"]
        gate.open()
        try:
            run = world.wait_runs(KB, "early", 1)
            world.refresh(run, "Nimbus hubs blink blue.")
            world.wait(KB, "early", "Ready", "True")
            world.wait(KB, "early", "Reconciling", "False")
            gate.shut()
            world.wait(KB, "early", "Reconciling", "True", "PrefectUnavailable")
            assert world.condition(KB, "early", "Ready")["status"] == "True"
        finally:
            gate.shut()


def test_without_the_registry_nothing_is_called_ready(world: World, postgres_url: str) -> None:
    folder = parse_qs(urlsplit(postgres_url).query)["host"][0]

    def connect() -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.connect(f"{folder}/.s.PGSQL.5432")
        return found

    gate = Gate(connect)
    gate.open()
    url = f"postgresql://postgres@127.0.0.1:{gate.port}/postgres?sslmode=disable"
    with world.operator(GROUNDTUNE_DATABASE_URL=url):
        try:
            _live(world, "docs")
            before = world.get(KB, "docs")["status"]
            gate.shut()
            world.wait(KB, "docs", "Ready", "False", "RegistryUnavailable")
            assert world.get(KB, "docs")["status"]["liveVersion"] == before["liveVersion"]
            gate.open()
            world.wait(KB, "docs", "Ready", "True")
            world.wait(KB, "docs", "Reconciling", "False")
        finally:
            gate.shut()


def test_a_killed_operator_goes_on_where_it_was(world: World) -> None:
    with world.operator() as first:
        _live(world, "docs")
        world.wait(KB, "docs", "Reconciling", "False")
        before = world.get(KB, "docs")["status"]
        world.request(KB, "docs", "now")
        run = world.wait_runs(KB, "docs", 2)
        first.send_signal(signal.SIGKILL)
        first.wait()
    world.refresh(run, "Nimbus hubs blink red.")
    with world.operator():
        eventually(
            lambda: world.get(KB, "docs")["status"]["liveVersion"] == 2, "what happened meanwhile is seen"
        )
        world.wait(KB, "docs", "Reconciling", "False")
        now = world.get(KB, "docs")["status"]
        assert now["lastHandledRequest"] == "now"
        ready = [each for status in (before, now) for each in status["conditions"] if each["type"] == "Ready"]
        assert ready[0]["lastTransitionTime"] == ready[1]["lastTransitionTime"]
        assert len(world.runs(KB, "docs")) == 2


def test_a_run_that_gives_no_sign_of_life_is_replaced_and_one_that_does_is_not(world: World) -> None:
    with world.operator(GROUNDTUNE_OPERATOR_SILENCE_SECONDS="3"), world.engine.connect() as connection:
        world.apply(KB, "alive", SPEC)
        world.apply(KB, "dead", SPEC)
        uid = world.get(KB, "alive")["metadata"]["uid"]
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), {"key": run_lock(uid)})
        world.begin(world.wait_runs(KB, "alive", 1))
        dead = world.wait_runs(KB, "dead", 1)
        world.begin(dead)
        world.wait(KB, "dead", "Reconciling", "True", "Retrying")
        world.wait_runs(KB, "dead", 2)
        state = world.prefect.get(f"/flow_runs/{dead['id']}").json()["state"]
        assert state["type"] == "CANCELLING"
        assert "sign of life" in state["message"]
        assert len(world.runs(KB, "alive")) == 1
        assert world.condition(KB, "alive", "Reconciling")["reason"] == "Refreshing"


def test_facts_tell_whose_lock_is_held(world: World) -> None:
    with world.engine.connect() as holder, world.engine.connect() as reader:
        holder.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), {"key": run_lock("held")})
        facts = read_facts(reader, ["held", "free"])
        assert (facts["held"].locked, facts["free"].locked) == (True, False)
        assert read_facts(reader, []) == {}
