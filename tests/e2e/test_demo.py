"""The demo's whole path, with the real model; what it reports has to hold."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from groundtune_local import lifecycle, processes

DEMO = [sys.executable, "-m", "groundtune_local.demo", "--data-dir"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    data = tmp_path_factory.mktemp("demo")
    done = subprocess.run([*DEMO, str(data)], capture_output=True, text=True, timeout=1500, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return data, done.stdout


@pytest.fixture(scope="module")
def report(told: tuple[Path, str]) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((told[0] / "demo" / "report.json").read_text(encoding="utf-8"))
    return loaded


pytestmark = pytest.mark.timeout(1600)


def test_the_conditions_tell_the_story(told: tuple[Path, str]) -> None:
    for name in ("support-docs", "support-voice", "support-bot"):
        assert name in told[1]


def test_facts_come_from_retrieval_and_format_from_tuning(report: dict[str, Any]) -> None:
    facts, formats, questions = report["hasFact"], report["hasFormat"], report["questions"]
    assert questions == 5
    assert facts["base"] == facts["tuned"] == 0
    assert facts["retrieval"] >= 4 and facts["both"] >= 4
    assert formats["base"] == formats["retrieval"] == 0
    assert formats["tuned"] >= 4 and formats["both"] >= 4


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


def test_nothing_is_left_running(told: tuple[Path, str]) -> None:
    assert list(processes.marked(told[0])) == []


def test_an_interrupted_demo_leaves_nothing_behind(tmp_path: Path) -> None:
    process = subprocess.Popen([*DEMO, str(tmp_path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not any(part.state == "ready" for part in lifecycle.observe(tmp_path).parts.values()):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    assert list(processes.marked(tmp_path)) == []
