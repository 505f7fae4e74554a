"""KnowledgeBases under the operator, on a real database, Prefect server and API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operator_world import ServeRecorder, World, eventually
from sqlalchemy import select, text

from groundtune.registry.tables import KnowledgeBaseRow

KB = "KnowledgeBase"
FLOW = "refresh-knowledge-base"
SOURCES = [{"volume": {"claimName": "docs"}}]


@pytest.fixture(scope="module")
def world(
    kubeconfig: Path, postgres_url: str, prefect_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    serve = ServeRecorder()
    serve.start()
    world = World(kubeconfig, postgres_url, prefect_url, serve, tmp_path_factory.mktemp("operator"))
    with world.operator():
        yield world
    serve.stop()


def _live(world: World, name: str, **spec: Any) -> None:
    """A knowledge base with version 1 live."""
    world.apply(KB, name, {"sources": SOURCES, **spec})
    world.refresh(world.wait_runs(KB, name, 1), "Nimbus hubs blink blue.")
    world.wait(KB, name, "Ready", "True")


def test_a_first_refresh_makes_it_ready(world: World) -> None:
    schedule = {"schedule": "0 3 * * *", "timeZone": "Europe/Berlin", "maxStaleness": "24h"}
    world.apply(KB, "first", {"sources": SOURCES, "refresh": schedule})
    run = world.wait_runs(KB, "first", 1)
    assert run["parameters"]["reason"] == "created"
    assert world.condition(KB, "first", "Ready")["reason"] == "NoLiveVersion"
    world.refresh(run, "Nimbus hubs blink blue.", "Nimbus returns take thirty days.")
    ready = world.wait(KB, "first", "Ready", "True")
    assert "2 documents" in ready["message"]
    world.wait(KB, "first", "Reconciling", "False")
    world.wait(KB, "first", "Fresh", "True")
    status = world.get(KB, "first")["status"]
    assert (status["liveVersion"], status["documents"], status["lastRefresh"]["added"]) == (1, 2, 2)
    assert status["cost"]["tokens"] == 7
    assert status["nextRefreshTime"].endswith(("T01:00:00Z", "T02:00:00Z"))
    deployment = world.deployment(FLOW, "first")
    assert deployment is not None
    assert deployment["entrypoint"] == "groundtune_flows.refresh.refresh_knowledge_base"
    assert deployment["work_pool_name"] == "groundtune"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["schedules"][0]["schedule"]["timezone"] == "Europe/Berlin"
    # A schedule that Prefect makes no run of would be one in name only.
    ahead = eventually(lambda: world.scheduled("first") or None, "Prefect makes the next runs")
    assert status["nextRefreshTime"] == ahead[0].replace("+00:00", "Z")
    eventually(lambda: {"VersionLive", "RefreshFinished", "Ready"} <= set(world.events("first")), "events")


def test_nothing_is_written_while_nothing_changes(world: World) -> None:
    _live(world, "still", refresh={"schedule": "0 3 * * *"})
    world.wait(KB, "still", "Reconciling", "False")
    before = world.get(KB, "still")
    deployment = world.deployment(FLOW, "still")
    # A poke at something unrelated makes it look again at everything.
    world.change(KB, "still", {"metadata": {"labels": {"poked": "yes"}}})
    _live(world, "later")
    after = world.get(KB, "still")
    assert after["status"] == before["status"]
    assert after["spec"] == before["spec"]
    assert after["metadata"]["generation"] == 1
    now = world.deployment(FLOW, "still")
    assert deployment is not None and now is not None
    assert now["updated"] == deployment["updated"]


def test_a_changed_schedule_is_edited_in_place_and_runs_nothing(world: World) -> None:
    _live(world, "cadence", refresh={"schedule": "0 3 * * *"})
    before = world.deployment(FLOW, "cadence")
    assert before is not None
    world.change(KB, "cadence", {"spec": {"refresh": {"schedule": "30 4 * * *", "suspend": True}}})

    def edited() -> dict[str, Any] | None:
        found = world.deployment(FLOW, "cadence")
        assert found is not None
        return found if found["schedules"][0]["schedule"]["cron"] == "30 4 * * *" else None

    after = eventually(edited, "the schedule is edited")
    assert after["schedules"][0]["id"] == before["schedules"][0]["id"]
    assert after["schedules"][0]["active"] is False
    world.wait(KB, "cadence", "Ready", "True")
    assert "nextRefreshTime" not in world.get(KB, "cadence")["status"]
    assert len(world.runs(KB, "cadence")) == 1
    world.change(KB, "cadence", {"spec": {"refresh": {"schedule": None}}})
    eventually(lambda: world.deployment(FLOW, "cadence")["schedules"] == [], "the schedule is removed")  # type: ignore[index]


def test_a_changed_recipe_runs_once(world: World) -> None:
    _live(world, "recipe")
    world.change(KB, "recipe", {"spec": {"chunking": {"maxTokens": 64}}})
    run = world.wait_runs(KB, "recipe", 2)
    assert run["parameters"]["reason"] == "changed"
    assert run["parameters"]["snapshot"]["spec"]["chunking"]["maxTokens"] == 64
    ready = world.wait(KB, "recipe", "Ready", "True")
    assert "version 1" in ready["message"]
    world.refresh(run, "Nimbus hubs blink red.")
    eventually(lambda: world.get(KB, "recipe")["status"]["liveVersion"] == 2, "version 2 is live")
    world.wait(KB, "recipe", "Reconciling", "False")
    assert len(world.runs(KB, "recipe")) == 2


def test_a_request_runs_exactly_once(world: World) -> None:
    _live(world, "asked")
    world.request(KB, "asked", "2030-01-01T00:00:00Z")
    run = world.wait_runs(KB, "asked", 2)
    assert run["parameters"]["reason"] == "requested"
    eventually(
        lambda: world.get(KB, "asked")["status"]["lastHandledRequest"] == "2030-01-01T00:00:00Z",
        "it is handled",
    )
    world.refresh(run, "Nimbus hubs blink red.")
    world.wait(KB, "asked", "Reconciling", "False")
    assert len(world.runs(KB, "asked")) == 2


def test_an_annotation_makes_an_earlier_version_live_once(world: World) -> None:
    _live(world, "back")
    world.request(KB, "back", "again")
    world.refresh(world.wait_runs(KB, "back", 2), "Nimbus hubs blink red.")
    eventually(lambda: world.get(KB, "back")["status"]["liveVersion"] == 2, "version 2 is live")

    def ask(value: str) -> dict[str, Any]:
        world.change(KB, "back", {"metadata": {"annotations": {"groundtune.io/rollbackTo": value}}})
        eventually(
            lambda: world.get(KB, "back")["status"].get("lastHandledRollback") == value, "it is acted on"
        )
        found: dict[str, Any] = world.get(KB, "back")["status"]
        return found

    ask("1")
    eventually(lambda: world.get(KB, "back")["status"]["liveVersion"] == 1, "version 1 is live again")
    assert "RolledBack" in world.events("back")
    world.wait(KB, "back", "Fresh", "False", "RolledBack")
    for wrong in ("7", "one"):
        assert ask(wrong)["liveVersion"] == 1
    assert world.events("back").count("RollbackFailed") == 2
    # The same annotation is no request to go back once more.
    world.request(KB, "back", "third")
    world.refresh(world.wait_runs(KB, "back", 3), "Nimbus hubs blink green.")
    eventually(lambda: world.get(KB, "back")["status"]["liveVersion"] == 3, "version 3 is live")
    world.wait(KB, "back", "Fresh", "True")


def test_a_date_that_never_comes_is_named_and_clears_once_mended(world: World) -> None:
    world.apply(KB, "never", {"sources": SOURCES, "refresh": {"schedule": "0 3 30 2 *"}})
    stalled = world.wait(KB, "never", "Stalled", "True", "InvalidSchedule")
    assert "spec.refresh.schedule" in stalled["message"]
    assert "0 3 30 2 *" in stalled["message"]
    assert world.deployment(FLOW, "never") is None
    eventually(lambda: "InvalidSchedule" in world.events("never"), "an event")
    world.change(KB, "never", {"spec": {"refresh": {"schedule": "0 3 28 2 *"}}})
    world.wait(KB, "never", "Stalled", "False")
    world.wait_runs(KB, "never", 1)


def test_a_missing_source_is_named_tried_again_and_clears(world: World) -> None:
    world.apply(KB, "missing", {"sources": SOURCES})
    message = "spec.sources[0].volume: claim docs has no file that fits"
    world.fail(world.wait_runs(KB, "missing", 1), "SourceUnavailable", message)
    stalled = world.wait(KB, "missing", "Stalled", "True", "SourceUnavailable")
    assert stalled["message"] == message
    assert world.wait(KB, "missing", "Ready", "False", "SourceUnavailable")["message"] == message
    retry = world.wait_runs(KB, "missing", 2)
    assert retry["parameters"]["reason"] == "retry"
    assert world.condition(KB, "missing", "Stalled")["lastTransitionTime"] == stalled["lastTransitionTime"]
    world.refresh(retry, "Nimbus hubs blink blue.")
    world.wait(KB, "missing", "Ready", "True")
    world.wait(KB, "missing", "Stalled", "False")


def test_failures_without_fault_of_the_spec_end_after_five_attempts(world: World) -> None:
    world.apply(KB, "unlucky", {"sources": SOURCES})
    for attempt in range(1, 6):
        world.fail(world.wait_runs(KB, "unlucky", attempt), "InternalError", f"disk {attempt} is full")
        if attempt == 1:
            world.wait(KB, "unlucky", "Reconciling", "True", "Retrying")
    stalled = world.wait(KB, "unlucky", "Stalled", "True", "InternalError")
    assert "disk 5 is full" in stalled["message"]
    assert "5 attempts" in stalled["message"]
    world.request(KB, "unlucky", "again")
    world.wait_runs(KB, "unlucky", 6)
    world.wait(KB, "unlucky", "Stalled", "False")


def test_a_run_that_crashed_without_a_word_is_tried_again(world: World) -> None:
    world.apply(KB, "crashed", {"sources": SOURCES})
    run = world.wait_runs(KB, "crashed", 1)
    world.begin(run)
    world.set_state(run, "CRASHED", "Flow run process exited with status code -9")
    retry = world.wait_runs(KB, "crashed", 2)
    assert retry["parameters"]["reason"] == "retry"
    world.refresh(retry, "Nimbus hubs blink blue.")
    world.wait(KB, "crashed", "Ready", "True")


def test_a_missed_gate_leaves_the_live_version(world: World) -> None:
    _live(world, "gated", evaluation={"dataset": {"volume": {"claimName": "golden"}}})
    world.request(KB, "gated", "now")
    scores = {"version": 2, "k": 5, "questions": 9, "recall": 0.2, "precision": 0.1, "mrr": 0.2, "ndcg": 0.2}
    message = "corpus version 2: recall@5 0.200 is below 0.900; version 1 stays live"
    world.fail(
        world.wait_runs(KB, "gated", 2), "EvaluationFailed", message, {"version": 2, "evaluation": scores}
    )
    gate = world.wait(KB, "gated", "EvaluationPassed", "False", "EvaluationFailed")
    assert gate["message"] == message
    world.wait(KB, "gated", "Ready", "True")
    world.wait(KB, "gated", "Fresh", "False", "LastRunFailed")
    assert world.get(KB, "gated")["status"]["evaluation"]["recall"] == 0.2
    eventually(lambda: "GateFailed" in world.events("gated"), "an event")


def test_a_restart_changes_nothing_and_runs_nothing(world: World) -> None:
    _live(world, "restart", refresh={"schedule": "0 3 * * *"})
    world.wait(KB, "restart", "Reconciling", "False")
    before = world.get(KB, "restart")
    settings = {"GROUNDTUNE_OPERATOR_NAMESPACES": world.namespace}
    with world.operator(**settings):  # a second one beside the first must agree with it in everything
        _live(world, "meanwhile")
    assert world.get(KB, "restart")["status"] == before["status"]
    assert len(world.runs(KB, "restart")) == 1


def test_deletion_removes_what_it_made(world: World) -> None:
    _live(world, "short", deletionPolicy="Delete", refresh={"schedule": "0 3 * * *"})
    uid = world.get(KB, "short")["metadata"]["uid"]
    world.delete(KB, "short")
    eventually(lambda: world.gone(KB, "short"), "it is gone")
    assert world.deployment(FLOW, "short") is None
    with world.engine.connect() as connection:
        assert connection.execute(select(KnowledgeBaseRow).where(KnowledgeBaseRow.uid == uid)).first() is None
        orphans = connection.execute(
            text(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'groundtune_corpora' AND tablename NOT IN "
                "(SELECT kind || id FROM groundtune.spaces, unnest(ARRAY['chunks_', 'texts_', 'terms_']) AS kind)"
            )
        ).all()
    assert orphans == []


def test_deletion_retains_the_corpus_and_waits_for_a_run_in_hand(world: World) -> None:
    _live(world, "kept")
    uid = world.get(KB, "kept")["metadata"]["uid"]
    world.request(KB, "kept", "now")
    run = world.wait_runs(KB, "kept", 2)
    world.begin(run)
    world.delete(KB, "kept")

    def cancelling() -> bool:
        return bool(world.prefect.get(f"/flow_runs/{run['id']}").json()["state_type"] == "CANCELLING")

    eventually(cancelling, "the run is told to cancel")
    world.set_state(run, "CANCELLED")
    eventually(lambda: world.gone(KB, "kept"), "it is gone")
    with world.engine.connect() as connection:
        kept = select(KnowledgeBaseRow.live_version).where(KnowledgeBaseRow.uid == uid)
        assert connection.execute(kept).scalar_one() == 1


def test_deletion_does_not_wait_for_ever(world: World) -> None:
    _live(world, "stuck")
    world.request(KB, "stuck", "now")
    world.begin(world.wait_runs(KB, "stuck", 2))  # nobody will ever cancel it
    world.delete(KB, "stuck")
    eventually(lambda: world.gone(KB, "stuck"), "it is gone")
    eventually(lambda: "CleanUpIncomplete" in world.events("stuck"), "an event")
