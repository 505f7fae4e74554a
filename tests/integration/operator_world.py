"""An operator as a process of its own, with all that it talks to, and a hand that plays the flows' part.

Nothing here runs a flow: what a flow would write to the registry and tell Prefect is written by the test.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID, uuid4

import httpx
import kubernetes
import numpy as np
from conftest import free_port, running
from sqlalchemy import update
from sqlalchemy.dialects.postgresql import insert

from groundtune.api import GROUP, KINDS, VERSION
from groundtune.registry import contents, corpora
from groundtune.registry.database import connect
from groundtune.registry.runs import RunError, finish_run, notify, report_progress, start_run
from groundtune.registry.tables import AdapterRow, AdapterState, FineTuneJobRow, RunState
from groundtune.snapshots import FineTuneJobSnapshot, KnowledgeBaseSnapshot

PATIENCE = 60.0
_PLURALS = {kind.kind_name: kind.plural for kind in KINDS}
_DIMENSIONS = 3
T = TypeVar("T")


def eventually(probe: Callable[[], T | None], what: str, seconds: float = PATIENCE) -> T:
    """The first result that is neither None nor False; fails when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = probe()
        if found is not None and found is not False:
            return found
        time.sleep(0.1)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


class ServeRecorder:
    """Ray Serve's REST API as far as the operator uses it, and the endpoint; it keeps what it was told.

    The real thing needs a GPU-sized engine behind it; that the operator and it agree is shown end to end.
    """

    def __init__(self) -> None:
        self.puts: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}
        self.readiness: dict[str, dict[str, Any]] = {}
        self.foreign: list[dict[str, Any]] = []
        recorder = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/api/serve/applications/":
                    self._answer(200, {"applications": recorder.applications()})
                elif self.path.endswith("/ready") and self.path[1:-6].replace("/", ".") in recorder.readiness:
                    said = recorder.readiness[self.path[1:-6].replace("/", ".")]
                    self._answer(200 if said["ready"] else 503, said)
                else:
                    self._answer(404, {"message": "nothing here"})

            def do_PUT(self) -> None:
                length = int(self.headers["Content-Length"])
                recorder.puts.append(json.loads(self.rfile.read(length)))
                self._answer(200, None)

            def _answer(self, status: int, body: Any) -> None:
                content = b"" if body is None else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                return None

        self._handler = Handler
        self.port = free_port()
        self._server: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), self._handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def listed(self) -> dict[str, dict[str, Any]]:
        """The applications of the last config, by name."""
        last = self.puts[-1]["applications"] if self.puts else self.foreign
        return {each["name"]: each for each in last}

    def user_config(self, name: str) -> dict[str, Any] | None:
        """The last user_config of an application."""
        there = self.listed().get(name)
        found: dict[str, Any] | None = None if there is None else there["deployments"][0]["user_config"]
        return found

    def applications(self) -> dict[str, Any]:
        return {
            name: {
                "name": name,
                "status": "DEPLOY_FAILED" if name in self.failures else "RUNNING",
                "message": self.failures.get(name, ""),
                "deployed_app_config": config,
                "deployments": {"Gateway": {"message": "", "replicas": [{"state": "RUNNING"}]}},
            }
            for name, config in self.listed().items()
        }

    def answer(
        self, name: str, *, adapters: dict[str, str] | None = None, bases: dict[str, int] | None = None
    ) -> None:
        """Let an application say that it is ready, with adapters by alias and versions by knowledge base."""
        loaded = [
            {"alias": alias, "name": each, "state": "Loaded"} for alias, each in (adapters or {}).items()
        ]
        read = [{"name": base, "version": version} for base, version in (bases or {}).items()]
        self.readiness[name] = {"ready": True, "models": [name], "adapters": loaded, "knowledgeBases": read}


class Gate:
    """A TCP address that leads to a backend while it is open, and is as good as not there while it is shut."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self._connect = connect
        self.port = free_port()
        self._listener: socket.socket | None = None
        self._joined: list[socket.socket] = []

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Refuse new connections, and cut those that are there."""
        for each in (self._listener, *self._joined):
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()
        self._joined.clear()
        self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = self._connect()
            self._joined += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, target), daemon=True).start()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@dataclass
class World:
    """One operator and what it works with. Resources are made in a namespace of the test's own."""

    kubeconfig: Path
    postgres_url: str
    prefect_url: str
    serve: ServeRecorder
    folder: Path
    namespace: str = field(default_factory=lambda: f"operator-{uuid4().hex[:8]}")

    def __post_init__(self) -> None:
        client = kubernetes.config.new_client_from_config(str(self.kubeconfig))
        self.objects = kubernetes.client.CustomObjectsApi(client)
        self.core = kubernetes.client.CoreV1Api(client)
        self.core.create_namespace({"metadata": {"name": self.namespace}})
        self.prefect = httpx.Client(base_url=self.prefect_url, timeout=30)
        self.engine = connect(self.postgres_url)
        self.log = self.folder / "operator.log"

    @contextmanager
    def operator(self, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
        """The operator, looking after this world's namespace."""
        environment = {
            **os.environ,
            "KUBECONFIG": str(self.kubeconfig),
            "GROUNDTUNE_DATABASE_URL": self.postgres_url,
            "PREFECT_API_URL": self.prefect_url,
            "GROUNDTUNE_RAY_DASHBOARD_URL": self.serve.url,
            "GROUNDTUNE_SERVE_URL": self.serve.url,
            "GROUNDTUNE_OPERATOR_NAMESPACES": self.namespace,
            "GROUNDTUNE_OPERATOR_LIVENESS_ENDPOINT": f"http://127.0.0.1:{free_port()}/healthz",
            "GROUNDTUNE_OPERATOR_POLL_SECONDS": "1",
            "GROUNDTUNE_OPERATOR_RETRY_SECONDS": "1",
            "GROUNDTUNE_OPERATOR_DELETION_SECONDS": "4",
            **settings,
        }
        with running([sys.executable, "-m", "groundtune_operator"], self.log, environment) as process:
            yield process

    # Kubernetes.

    def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Create a resource."""
        body = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": kind,
            "metadata": {"name": name},
            "spec": spec,
        }
        self.objects.create_namespaced_custom_object(GROUP, VERSION, self.namespace, _PLURALS[kind], body)

    def change(self, kind: str, name: str, patch: dict[str, Any]) -> None:
        """Change a resource by a merge patch."""
        self.objects.patch_namespaced_custom_object(
            GROUP,
            VERSION,
            self.namespace,
            _PLURALS[kind],
            name,
            patch,
            _content_type="application/merge-patch+json",
        )

    def request(self, kind: str, name: str, value: str) -> None:
        """Ask for a run now, as `kubectl annotate` would."""
        self.change(kind, name, {"metadata": {"annotations": {"groundtune.io/requestedAt": value}}})

    def delete(self, kind: str, name: str) -> None:
        self.objects.delete_namespaced_custom_object(GROUP, VERSION, self.namespace, _PLURALS[kind], name)

    def get(self, kind: str, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.objects.get_namespaced_custom_object(
            GROUP, VERSION, self.namespace, _PLURALS[kind], name
        )
        return found

    def gone(self, kind: str, name: str) -> bool:
        try:
            self.get(kind, name)
        except kubernetes.client.ApiException as error:
            assert error.status == 404, error
            return True
        return False

    def condition(self, kind: str, name: str, type_: str) -> dict[str, Any]:
        """A condition as it is now; empty before there is one."""
        conditions = self.get(kind, name).get("status", {}).get("conditions", [])
        return next((each for each in conditions if each["type"] == type_), {})

    def wait(self, kind: str, name: str, type_: str, status: str, reason: str = "") -> dict[str, Any]:
        """The condition, once it has this status and reason for the current generation."""

        def probe() -> dict[str, Any] | None:
            body = self.get(kind, name)
            found = self.condition(kind, name, type_)
            right = found.get("status") == status and reason in ("", found.get("reason"))
            return found if right and found["observedGeneration"] == body["metadata"]["generation"] else None

        try:
            return eventually(probe, f"{kind} {name}: {type_}={status} {reason}")
        except AssertionError as error:
            now = json.dumps(self.get(kind, name).get("status"), indent=1)
            raise AssertionError(f"{error}\n{now}\n{self.log.read_text()[-3000:]}") from None

    def events(self, name: str) -> list[str]:
        """Reasons of the events about a resource."""
        found = self.core.list_namespaced_event(self.namespace).items
        return [each.reason for each in found if each.involved_object.name == name]

    # Prefect, and the flows' part.

    def deployment(self, flow: str, name: str) -> dict[str, Any] | None:
        response = self.prefect.get(f"/deployments/name/{flow}/{self.namespace}.{name}")
        return None if response.status_code == 404 else response.raise_for_status().json()

    def runs(self, kind: str, name: str) -> list[dict[str, Any]]:
        """Started runs of a resource, oldest first."""
        uid = self.get(kind, name)["metadata"]["uid"]
        now = datetime.now(UTC).isoformat()
        body = {
            "flow_runs": {"tags": {"all_": [f"uid:{uid}"]}, "expected_start_time": {"before_": now}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        found: list[dict[str, Any]] = (
            self.prefect.post("/flow_runs/filter", json=body).raise_for_status().json()
        )
        return found

    def scheduled(self, name: str) -> list[str]:
        """When the runs that Prefect's scheduler has made ahead for a resource are to start, soonest first."""
        body = {
            "deployments": {"name": {"any_": [f"{self.namespace}.{name}"]}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}, "tags": {"all_": ["auto-scheduled"]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        found = self.prefect.post("/flow_runs/filter", json=body).raise_for_status().json()
        return [run["expected_start_time"] for run in found]

    def wait_runs(self, kind: str, name: str, count: int) -> dict[str, Any]:
        """The newest run, once there are so many."""
        return eventually(
            lambda: runs[-1] if len(runs := self.runs(kind, name)) == count else None,
            f"{count} runs of {name}",
        )

    def set_state(self, run: dict[str, Any], state: str, message: str = "") -> None:
        body = {"state": {"type": state, "name": state.capitalize(), "message": message}, "force": True}
        self.prefect.post(f"/flow_runs/{run['id']}/set_state", json=body).raise_for_status()

    def snapshot(self, run: dict[str, Any]) -> KnowledgeBaseSnapshot | FineTuneJobSnapshot:
        """What the run was told, parsed as the flow would."""
        raw = run["parameters"]["snapshot"]
        if raw["kind"] == "KnowledgeBase":
            return KnowledgeBaseSnapshot.model_validate(raw)
        return FineTuneJobSnapshot.model_validate(raw)

    def begin(self, run: dict[str, Any]) -> KnowledgeBaseSnapshot | FineTuneJobSnapshot:
        """The run starts."""
        snapshot = self.snapshot(run)
        self.set_state(run, "RUNNING")
        with self.engine.begin() as connection:
            start_run(connection, UUID(run["id"]), snapshot, run["parameters"]["reason"])
        return snapshot

    def report(self, run: dict[str, Any], **progress: Any) -> None:
        with self.engine.begin() as connection:
            report_progress(connection, UUID(run["id"]), progress)

    def fail(
        self, run: dict[str, Any], reason: str, message: str, result: dict[str, Any] | None = None
    ) -> None:
        """The run starts and fails, and says why."""
        self.begin(run)
        with self.engine.begin() as connection:
            error = RunError(reason, message)
            finish_run(connection, UUID(run["id"]), RunState.FAILED, error=error, result=result)
        self.set_state(run, "FAILED", message)

    def refresh(self, run: dict[str, Any], *texts: str) -> int:
        """The run starts, makes a version of one document a text live, and ends; the version."""
        snapshot = self.begin(run)
        assert isinstance(snapshot, KnowledgeBaseSnapshot)
        recipe = {"embedding": snapshot.spec.embedding.model_dump(mode="json", by_alias=True)}
        with self.engine.begin() as connection:
            space = corpora.find_space(connection, snapshot.uid, recipe)
            if space is None:
                corpora.ensure_knowledge_base(connection, snapshot)
                space = corpora.create_space(connection, snapshot.uid, recipe, _DIMENSIONS)
            version = corpora.next_version(connection, snapshot.uid)
            corpora.open_version(connection, snapshot.uid, space, version, UUID(run["id"]))
            contents.replace_documents(connection, space, version, [_document(text) for text in texts])
            corpora.finish_version(connection, snapshot.uid, version)
            corpora.promote(connection, snapshot.uid, version)
            result = {"version": version, "liveVersion": version, "added": len(texts)}
            finish_run(connection, UUID(run["id"]), RunState.SUCCEEDED, result=result, tokens=7)
        self.set_state(run, "COMPLETED")
        return version

    def train(self, run: dict[str, Any], version: int, *, promote: bool = True) -> None:
        """The run, begun before, registers an adapter version and ends."""
        snapshot = self.snapshot(run)
        with self.engine.begin() as connection:
            job = {"uid": snapshot.uid, "namespace": snapshot.namespace, "name": snapshot.name}
            connection.execute(insert(FineTuneJobRow).values(job).on_conflict_do_nothing())
            connection.execute(
                insert(AdapterRow).values(
                    job_uid=snapshot.uid,
                    version=version,
                    name=f"{snapshot.name}-v{version}",
                    state=AdapterState.PROMOTED if promote else AdapterState.CANDIDATE,
                    path=f"adapters/{snapshot.uid}/{version}",
                    recipe_hash="r",
                    dataset_hash="d",
                    provenance={},
                    run_id=UUID(run["id"]),
                    promoted_at=datetime.now(UTC) if promote else None,
                )
            )
            if promote:
                same = FineTuneJobRow.uid == snapshot.uid
                connection.execute(update(FineTuneJobRow).where(same).values(promoted_version=version))
            result = {"version": version, "dataset": {"hash": "d", "examples": 64, "tokens": 4096}}
            finish_run(connection, UUID(run["id"]), RunState.SUCCEEDED, result=result, tokens=4096)
            notify(connection, snapshot.uid)
        self.set_state(run, "COMPLETED")


def _document(text: str) -> contents.NewDocument:
    chunk = contents.NewChunk(
        start=0, end=len(text), tokens=3, heading="", text=text, vector=np.ones(_DIMENSIONS, np.float32)
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    return contents.NewDocument(
        uri=f"volume://docs/{digest[:8]}.md", content_hash=digest, text=text, chunks=[chunk]
    )
