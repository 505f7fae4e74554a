"""The supervisor: parts come up, come back, and leave nothing behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from groundtune_local import lifecycle, processes
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import Stack, StackError

RESOURCES = """
apiVersion: groundtune.io/v1alpha1
kind: KnowledgeBase
metadata:
  name: docs
spec:
  sources:
    - volume: {claimName: docs}
---
apiVersion: groundtune.io/v1alpha1
kind: InferenceDeployment
metadata:
  name: bot
spec:
  model: {uri: "file:///no/such/model"}
"""


def _groundtune(*arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "groundtune_local", *arguments],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def _eventually(holds: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"did not hold within {seconds} s"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("stack")
    yield folder
    lifecycle.shut_down(folder)
    assert list(processes.marked(folder)) == []


@pytest.fixture(scope="module")
def up(data: Path) -> str:
    done = _groundtune("up", "--detach", "--data-dir", str(data))
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_comes_up_with_a_line_for_each_part(up: str, data: Path) -> None:
    for title in ("Postgres", "Prefect server", "Prefect worker", "Ray", "Control plane", "Operator"):
        assert f"✓ {title}" in up
    assert _groundtune("status", "--data-dir", str(data)).returncode == 0


def test_the_pages_of_prefect_ask_this_prefect(up: str, data: Path) -> None:
    url = Stack.load(data).prefect_url
    assert httpx.get(f"{url}/ui-settings").json()["api_url"] == f"{url}/api"
    assert httpx.get(f"{url}/dashboard").is_success


def test_env_says_where_everything_is(up: str, data: Path) -> None:
    facts = json.loads(_groundtune("env", "--json", "--data-dir", str(data)).stdout)
    assert set(facts) == {
        "kubeconfig",
        "databaseUrl",
        "prefectUrl",
        "gatewayUrl",
        "rayDashboardUrl",
        "dataDirectory",
    }
    assert Path(facts["kubeconfig"]).is_file()
    for private in ("stack.json", "token", "kubeconfig"):
        assert (data / private).stat().st_mode & 0o077 == 0, private


def test_a_second_up_in_the_same_folder_changes_nothing(up: str, data: Path) -> None:
    supervisor = lifecycle.observe(data).pid
    done = _groundtune("up", "--detach", "--data-dir", str(data))
    assert (done.returncode, "up already" in done.stdout) == (0, True)
    assert lifecycle.observe(data).pid == supervisor
    refused = _groundtune("up", "--data-dir", str(data))  # one that would stop it with Ctrl-C
    assert refused.returncode == 1
    assert "is running" in refused.stderr


def test_a_killed_part_comes_back(up: str, data: Path) -> None:
    before = lifecycle.observe(data).parts["control-plane"].pid
    os.kill(before, signal.SIGKILL)
    _eventually(
        lambda: lifecycle.observe(data).parts["control-plane"].pid != before and lifecycle.observe(data).ready
    )


def _refreshes(data: Path) -> list[dict[str, Any]]:
    """The runs of the knowledge base that were due, newest first."""
    due = {"before_": datetime.now(UTC).isoformat()}
    wanted = {"flow_runs": {"tags": {"all_": ["groundtune"]}, "expected_start_time": due}}
    url = f"{Stack.load(data).prefect_url}/api/flow_runs/filter"
    found: list[dict[str, Any]] = httpx.post(url, json=wanted | {"sort": "EXPECTED_START_TIME_DESC"}).json()
    return found


def test_a_stack_stopped_while_a_run_starts_goes_on_with_it(up: str, data: Path) -> None:
    kubectl = Kubectl(Stack.load(data))
    (data / "volumes" / "docs").mkdir(parents=True)
    (data / "volumes" / "docs" / "hub.md").write_text("# Hub\n\nA hub blinks blue.\n", encoding="utf-8")
    kubectl.run("apply", "--filename", "-", stdin=RESOURCES)
    _eventually(lambda: bool(_refreshes(data)) and _refreshes(data)[0]["state_type"] == "PENDING")
    caught = _refreshes(data)[0]["id"]
    os.kill(lifecycle.observe(data).pid, signal.SIGTERM)
    _eventually(lambda: not list(processes.marked(data)))
    assert _groundtune("up", "--detach", "--data-dir", str(data)).returncode == 0
    assert {run["id"]: run["state_type"] for run in _refreshes(data)}[caught] in ("PENDING", "CRASHED")
    kubectl.run("wait", "--for=condition=Ready", "kb/docs", "--timeout=180s")
    assert {run["id"]: run["state_type"] for run in _refreshes(data)}[caught] == "CRASHED"
    # Serve came up on the stack's own port, though the operator had an application for it from the beginning.
    assert lifecycle.observe(data).parts["ray"].restarts == 0
    assert httpx.get(f"{Stack.load(data).serve_url}/-/healthz").is_success
    kubectl.run("wait", "--for=condition=Stalled", "infd/bot", "--timeout=120s")
    assert "/no/such/model" in kubectl.run("describe", "infd/bot")
    kubectl.run("delete", "kb/docs", "infd/bot", "--timeout=60s")


def test_a_killed_supervisor_leaves_nothing_behind(up: str, data: Path) -> None:
    assert len(list(processes.marked(data))) > 5
    os.kill(lifecycle.observe(data).pid, signal.SIGKILL)
    _eventually(lambda: not list(processes.marked(data)))
    assert not lifecycle.running(data)
    assert _groundtune("status", "--data-dir", str(data)).returncode == 1


def test_down_without_a_stack_says_so(tmp_path: Path) -> None:
    done = _groundtune("down", "--data-dir", str(tmp_path / "none"))
    assert (done.returncode, "Nothing runs" in done.stdout) == (0, True)


def test_a_taken_port_is_named_with_what_to_do(tmp_path: Path) -> None:
    stack = Stack.open(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", stack.ports["prefect"]))
        other.listen()
        with pytest.raises(StackError, match=rf"{stack.ports['prefect']} \(prefect\).*--new-ports"):
            lifecycle.open_stack(tmp_path, None, new_ports=False)
        moved = lifecycle.open_stack(tmp_path, None, new_ports=True)
    assert moved.ports["prefect"] != stack.ports["prefect"]
    assert moved.ports["postgres"] == stack.ports["postgres"]


def test_a_full_disk_is_named_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = SimpleNamespace(total=2**40, used=2**40 - 2**20, free=2**20)
    monkeypatch.setattr("groundtune_local.lifecycle.shutil.disk_usage", lambda _: full)
    with pytest.raises(
        StackError, match=r"0\.0 GiB are free on the disk of .*new/stack and 1 are needed.*--data-dir"
    ):
        lifecycle.open_stack(tmp_path / "new" / "stack", None, new_ports=False)
    assert list(tmp_path.iterdir()) == []


def test_two_stacks_have_ports_of_their_own(tmp_path: Path) -> None:
    first, second = Stack.open(tmp_path / "a"), Stack.open(tmp_path / "b")
    assert not set(first.ports.values()) & set(second.ports.values())
    assert Stack.load(tmp_path / "a") == first


def test_bad_usage_is_exit_code_2() -> None:
    assert _groundtune("up", "--no-such-option").returncode == 2
    assert _groundtune("search", "kb").returncode == 2
