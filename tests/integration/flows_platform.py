"""What a flow needs to run in a test: settings, a Prefect server, and a process to kill."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import wait_for
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import Engine, text

from groundtune.settings import settings
from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot
from groundtune_flows.refresh import refresh_knowledge_base

Snapshot = KnowledgeBaseSnapshot | FineTuneJobSnapshot

_RUN = """
import asyncio, inspect, json, sys
from groundtune_flows.{module} import {flow}
run = {flow}(json.loads(sys.argv[1]), "test")
if inspect.iscoroutine(run):
    asyncio.run(run)
"""


@dataclass(frozen=True)
class Platform:
    """Folders and addresses of this process's settings."""

    folder: Path
    postgres_url: str
    prefect_url: str

    @property
    def volumes(self) -> Path:
        return self.folder / "volumes"

    @property
    def artifacts(self) -> Path:
        return self.folder / "artifacts"

    def killed(self, snapshot: Snapshot, module: str, flow: str, when: Callable[[], bool]) -> None:
        """Start the flow in a process of its own, and kill that without warning as soon as `when` holds."""
        code = _RUN.format(module=module, flow=flow)
        process = subprocess.Popen(
            [sys.executable, "-c", code, json.dumps(snapshot.model_dump(mode="json"))],
            env={**os.environ, "PREFECT_API_URL": self.prefect_url, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def due() -> bool:
            assert process.poll() is None, "the flow ended before it could be killed"
            return when()

        try:
            wait_for(due, "the moment to kill the flow", seconds=300)
        finally:
            process.kill()
            process.wait()


@dataclass
class KnowledgeBase:
    """A knowledge base over a folder of files, refreshed in this process."""

    engine: Engine
    folder: Path
    spec: dict[str, Any]
    uid: str = field(default_factory=lambda: str(uuid.uuid4()))

    def write(self, name: str, content: str | bytes) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    def snapshot(self) -> KnowledgeBaseSnapshot:
        facts = {"namespace": "tests", "name": "docs", "uid": self.uid, "generation": 1, "spec": self.spec}
        return KnowledgeBaseSnapshot.model_validate(facts)

    def refresh(self) -> dict[str, Any]:
        """Run the flow; the run's record."""
        asyncio.run(refresh_knowledge_base(self.snapshot(), "test"))
        return self.last_run()

    def last_run(self) -> dict[str, Any]:
        statement = "SELECT * FROM groundtune.runs WHERE resource_uid = :uid ORDER BY started_at DESC LIMIT 1"
        return self.query(statement)[0]

    def query(self, statement: str, **values: Any) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            found = connection.execute(text(statement), {"uid": self.uid, **values})
            return [dict(row._mapping) for row in found]


@pytest.fixture(scope="module")
def platform(
    postgres_url: str, prefect_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Platform]:
    """A platform that this process's settings point to."""
    made = Platform(tmp_path_factory.mktemp("platform"), postgres_url, prefect_url)
    made.volumes.mkdir()
    environment = pytest.MonkeyPatch()
    environment.setenv("GROUNDTUNE_DATABASE_URL", postgres_url)
    environment.setenv("GROUNDTUNE_VOLUMES", str(made.volumes))
    environment.setenv("GROUNDTUNE_ARTIFACTS", str(made.artifacts))
    settings.cache_clear()
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        yield made
    environment.undo()
    settings.cache_clear()
