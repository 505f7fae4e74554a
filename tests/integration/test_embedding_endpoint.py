"""Embedding by an OpenAI-compatible server: a real one over HTTP, with the real model behind it."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from groundtune.api.knowledge_base import Embedding
from groundtune.embedding import Embedder
from groundtune.errors import GroundtuneError
from groundtune.settings import settings

_TEXTS = [f"The {name} costs {price} euros." for price, name in enumerate(["hub", "lamp", "plan"] * 50)]


@dataclass
class Server:
    """What it was asked, and how it answers before it answers well."""

    url: str = ""
    key: str = "sk-one"
    asked: list[dict[str, Any]] = field(default_factory=list)
    troubles: list[tuple[int, dict[str, str], Any]] = field(default_factory=list)
    dimensions: int = 384


@pytest.fixture(scope="module")
def local() -> Embedder:
    return Embedder(Embedding(), settings().models)


@pytest.fixture
def server(local: Embedder) -> Iterator[Server]:
    state = Server()
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path != "/v1/embeddings":
                return self.answer(404, {}, {"error": {"message": f"no {self.path}"}})
            if self.headers["Authorization"] != f"Bearer {state.key}":
                return self.answer(401, {}, {"error": {"message": "Incorrect API key provided"}})
            with lock:
                state.asked.append(body)
                trouble = state.troubles.pop(0) if state.troubles else None
                if trouble is None:
                    vectors = local.documents(body["input"])[:, : state.dimensions]
            if trouble is not None:
                return self.answer(*trouble)
            rows = [{"index": i, "embedding": vector.tolist()} for i, vector in enumerate(vectors)]
            return self.answer(200, {}, {"data": rows[::-1]})  # the order is said by the index alone

        def answer(self, status: int, headers: dict[str, str], body: Any) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "secrets" / "vendor").mkdir(parents=True)
    (tmp_path / "secrets" / "vendor" / "apiKey").write_text("sk-one\n")
    monkeypatch.setenv("GROUNDTUNE_SECRETS", str(tmp_path / "secrets"))
    settings.cache_clear()
    yield tmp_path / "secrets" / "vendor"
    settings.cache_clear()


def _embedder(url: str, *, patient: bool = True, **endpoint: Any) -> Embedder:
    spec = {"endpoint": {"url": url, "secretRef": {"name": "vendor"}, **endpoint}, "documentPrefix": "doc: "}
    return Embedder(Embedding.model_validate(spec), settings().models, patient=patient)


def test_vectors_are_the_models_own_in_order(server: Server, secrets: Path, local: Embedder) -> None:
    embedder = _embedder(server.url, model="mini", maxTokens=300)
    vectors = embedder.documents(_TEXTS)
    wanted = local.documents([f"doc: {text}" for text in _TEXTS])
    assert np.einsum("ij,ij->i", vectors, wanted).min() > 0.999
    assert (embedder.dimensions, embedder.max_tokens) == (384, 300)
    assert len(embedder.tokenizer.encode("The hub", add_special_tokens=False).ids) == 2
    sizes = [len(body["input"]) for body in server.asked]
    assert sorted(sizes) == [1, 22, 64, 64]  # the first asks for the dimensions
    assert {body["model"] for body in server.asked} == {"mini"}


def test_what_passes_is_tried_again_and_only_that(server: Server, secrets: Path) -> None:
    embedder = _embedder(server.url)
    server.troubles = [(429, {"Retry-After": "0.1"}, {"error": {"message": "slow down"}}), (503, {}, "down")]
    asked = len(server.asked)
    assert embedder.documents(_TEXTS).shape == (150, 384)
    assert len(server.asked) - asked == 3 + 2


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ((400, {}, {"error": {"message": "no such model"}}), r"answered 400: no such model"),
        ((200, {}, {"data": "none"}), "answered with something that are no embeddings"),
        ((200, {}, {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}), r"vectors of shape \(1, 2\)"),
    ],
)
def test_what_does_not_pass_is_said_at_once(
    server: Server, secrets: Path, trouble: tuple[int, dict[str, str], Any], message: str
) -> None:
    embedder = _embedder(server.url)
    server.troubles = [trouble]
    with pytest.raises(GroundtuneError, match=message) as caught:
        embedder.query("hub")
    assert str(caught.value).startswith(f"spec.embedding.endpoint.url: {server.url} ")
    assert caught.value.reason == "EmbeddingUnavailable"


def test_a_key_can_be_changed_and_stands_in_no_message(server: Server, secrets: Path) -> None:
    embedder = _embedder(server.url)
    server.key = "sk-two"
    with pytest.raises(GroundtuneError, match="answered 401: Incorrect API key provided") as caught:
        embedder.query("hub")
    assert "sk-" not in str(caught.value)
    (secrets / "apiKey").write_text("sk-two")
    assert embedder.query("hub").shape == (384,)
    (secrets / "apiKey").unlink()
    with pytest.raises(GroundtuneError, match="Secret vendor with a key apiKey is not mounted here"):
        embedder.query("hub")


def test_nobody_waits_long_for_a_server_that_is_away(secrets: Path) -> None:
    with pytest.raises(GroundtuneError, match="can't be reached") as caught:
        _embedder("http://127.0.0.1:9/v1", patient=False)
    assert caught.value.reason == "EmbeddingUnavailable"


def test_metadata_addresses_are_not_asked(secrets: Path) -> None:
    with pytest.raises(GroundtuneError, match="link-local or metadata address"):
        _embedder("http://169.254.169.254/v1")
