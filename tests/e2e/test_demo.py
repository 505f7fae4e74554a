"""The demo's whole path, with the real model; what it reports has to hold."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from demo_told import DEMO, Told

from groundtune_local import lifecycle, processes
from groundtune_local.demo.ask import ask
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import Stack


@pytest.fixture(scope="module")
def report(told: Told) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((told.data / "demo" / "report.json").read_text(encoding="utf-8"))
    return loaded


pytestmark = pytest.mark.timeout(1600)


def test_the_conditions_tell_the_story(told: Told) -> None:
    for row in ("knowledgebase/support-docs", "finetunejob/support-voice", "inferencedeployment/support-bot"):
        assert any(row in line and "True" in line for line in told.output.splitlines()), row


def test_facts_come_from_retrieval_and_format_from_tuning(report: dict[str, Any]) -> None:
    facts, formats, questions = report["hasFact"], report["hasFormat"], report["questions"]
    assert questions == 3
    assert facts["base"] == facts["tuned"] == 0
    assert facts["retrieval"] >= 2 and facts["both"] >= 2
    assert formats["base"] == formats["retrieval"] == 0
    assert formats["tuned"] >= 2 and formats["both"] >= 2


def test_grounded_answers_cite_the_article_that_has_the_fact(report: dict[str, Any]) -> None:
    for entry in report["answers"]:
        assert entry["both"]["citations"], entry["question"]
        assert entry["both"]["contextTokens"] > 0
        assert entry["base"]["citations"] == []
        assert entry["base"]["contextTokens"] == 0


def test_one_edited_article_costs_one_document(report: dict[str, Any]) -> None:
    refresh = report["refresh"]
    assert refresh["lastRefresh"]["updated"] == 1
    assert refresh["lastRefresh"].get("added", 0) == refresh["lastRefresh"].get("removed", 0) == 0
    assert 0 < refresh["lastRefresh"]["embeddedChunks"] < 20
    assert refresh["newPriceInContext"] and refresh["newPriceInAnswer"]


def test_the_second_adapter_is_swapped_in_without_a_failed_request(report: dict[str, Any]) -> None:
    retrain = report["retrain"]
    assert (retrain["from"], retrain["to"]) == ("support-voice-v1", "support-voice-v2")
    assert retrain["failed"] == 0, retrain["errors"]
    assert set(retrain["answeredBy"]) == {"support-voice-v1", "support-voice-v2"}


def _engine(data: Path) -> int:
    """Process id of the stack's vLLM engine."""
    names = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in processes.marked(data)}
    (found,) = (pid for pid, name in names.items() if name.startswith(b"VLLM::EngineCore"))
    return found


def test_an_earlier_version_is_live_again_at_once(told: Told, report: dict[str, Any]) -> None:
    def groundtune(*arguments: str) -> str:
        command = [sys.executable, "-m", "groundtune_local", *arguments, "--data-dir", str(told.data)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    kubectl = Kubectl(Stack.load(told.data))
    assert [line.split()[:2] for line in groundtune("kb", "versions", "support-docs").splitlines()[1:]] == [
        ["2", "Live"],
        ["1", "Superseded"],
    ]
    client = openai.OpenAI(base_url=kubectl.get("infd", "support-bot")["status"]["url"], api_key="unused")
    old, new = report["refresh"]["changed"].split(" → ")
    for version, price in ((1, old), (2, new)):
        assert f"Version {version} is live." in groundtune(
            "kb", "rollback", "support-docs", "--to", str(version)
        )
        answer = ask(client, "support-bot:grounded", report["answers"][0]["question"])
        assert answer.corpus == f"support-docs@{version}"
        assert any(price in entry["text"] for entry in answer.citations)


class _Impatient:
    """A client that asks every second without retries, and keeps what it was told. A context manager."""

    def __init__(self, url: str) -> None:
        self._client = openai.OpenAI(base_url=url, api_key="unused", timeout=400, max_retries=0)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.answered: set[tuple[str, str]] = set()
        self.refused: set[tuple[int, str | None, bool]] = set()

    def __enter__(self) -> _Impatient:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1):
            try:
                answer = ask(self._client, "support-bot", "How long is an invitation valid?", max_tokens=8)
                self.answered.add((answer.adapter, answer.corpus))
            except openai.APIStatusError as error:
                waits = "retry-after" in error.response.headers
                self.refused.add((error.status_code, error.code, waits))


def test_a_killed_engine_is_replaced_and_nobody_gets_less_than_was_declared(told: Told) -> None:
    kubectl = Kubectl(Stack.load(told.data))
    killed = _engine(told.data)
    with _Impatient(kubectl.get("infd", "support-bot")["status"]["url"]) as client:
        os.kill(killed, signal.SIGKILL)
        kubectl.run("wait", "--for=condition=Ready=false", "infd/support-bot", "--timeout=60s")
        kubectl.run("wait", "--for=condition=Ready", "infd/support-bot", "--timeout=400s")
    assert _engine(told.data) != killed
    assert client.answered == {("support-voice-v2", "support-docs@2")}
    assert client.refused <= {(503, "engine_unavailable", True)}
    events = json.loads(kubectl.run("get", "events", "--output", "json"))["items"]
    assert any(
        each["type"] == "Warning" and each["involvedObject"]["name"] == "support-bot" for each in events
    ), events


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*DEMO, "--data-dir", str(tmp_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=partial(
            signal.signal, signal.SIGINT, signal.SIG_DFL
        ),  # a shell's background job ignores it
    )
    deadline = time.monotonic() + 120
    while not any(part.state == "ready" for part in lifecycle.observe(tmp_path).parts.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert list(processes.marked(tmp_path)) == []
