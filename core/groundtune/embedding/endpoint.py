"""An embedding model behind an OpenAI-compatible `/v1/embeddings`."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from groundtune.addresses import ForbiddenAddress, check_peer, check_url
from groundtune.api.knowledge_base import Embedding, EmbeddingEndpoint
from groundtune.errors import ModelError
from groundtune.settings import settings

_FIELD = "spec.embedding.endpoint"
#: Texts of a request, and requests at a time.
_BATCH, _AT_ONCE = 64, 4
#: Seconds that a batch of documents is tried again and again, and a question.
_PATIENCE = {True: 120.0, False: 3.0}
_LONGEST_PAUSE = 30.0
_RETRIED = (408, 409, 429)


class EndpointModel:
    """Texts are sent in batches. Its tokens are counted with the tokenizer of `spec.embedding.model`."""

    def __init__(self, spec: Embedding, folder: Path, *, patient: bool) -> None:
        """Ask the endpoint once, for its dimensions.

        Args:
            folder: of the model whose tokenizer counts.
            patient: wait out an endpoint that is away or overloaded, as nobody waits for the answer.

        Raises:
            ModelError: it can't be reached, refuses, or there is no tokenizer.
        """
        assert spec.endpoint is not None
        self._endpoint: EmbeddingEndpoint = spec.endpoint
        self._name = spec.endpoint_model
        self._patience = _PATIENCE[patient]
        self._client = httpx.Client(timeout=httpx.Timeout(60.0, connect=5.0))
        self.max_tokens = spec.endpoint.max_tokens
        try:
            self._tokenizer = (folder / "tokenizer.json").read_text(encoding="utf-8")
        except OSError as error:
            raise ModelError(f"spec.embedding.model: {spec.model} has no tokenizer.json") from error
        self.dimensions = len(self._request(["dimensions"])[0])

    @property
    def tokenizer(self) -> Tokenizer:
        own = Tokenizer.from_str(self._tokenizer)
        own.no_truncation()
        own.no_padding()
        return own

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        if len(batches) == 1:
            return self._request(batches[0])
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="endpoint") as pool:
            return np.concatenate(list(pool.map(self._request, batches)))

    def _request(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of one batch; what passes is tried again."""
        deadline = time.monotonic() + self._patience
        pause = 0.5
        while True:
            try:
                response = self._post(texts)
            except (httpx.TransportError, OSError) as error:
                problem, wait = f"can't be reached: {error or type(error).__name__}", 0.0
            else:
                if response.is_success:
                    return self._vectors(response, len(texts))
                problem, wait = f"answered {response.status_code}: {_said(response)}", _asked_pause(response)
                if response.status_code < 500 and response.status_code not in _RETRIED:
                    raise self._error(problem)
            wait = min(_LONGEST_PAUSE, max(wait, pause * random.uniform(0.5, 1.0)))  # noqa: S311 (a pause, no secret)
            if time.monotonic() + wait > deadline:
                raise self._error(problem)
            time.sleep(wait)
            pause *= 2

    def _post(self, texts: Sequence[str]) -> httpx.Response:
        url = f"{self._endpoint.url.rstrip('/')}/embeddings"
        body: dict[str, Any] = {"model": self._name, "input": list(texts), "encoding_format": "float"}
        if self._endpoint.dimensions is not None:
            body["dimensions"] = self._endpoint.dimensions
        try:
            check_url(url)
            with self._client.stream("POST", url, json=body, headers=self._headers()) as response:
                check_peer(response)
                response.read()
                return response
        except ForbiddenAddress as error:
            raise ModelError(f"{_FIELD}.url: {error}", reason="InvalidSpec") from None

    def _headers(self) -> dict[str, str]:
        """Read at each request, so that a key can be changed while this runs."""
        if self._endpoint.secret_ref is None:
            return {}
        name = self._endpoint.secret_ref.name
        try:
            key = (settings().secrets / name / "apiKey").read_text(encoding="utf-8").strip()
        except OSError:
            text = f"{_FIELD}.secretRef.name: Secret {name} with a key apiKey is not mounted here"
            raise ModelError(text) from None
        return {"Authorization": f"Bearer {key}"}

    def _vectors(self, response: httpx.Response, count: int) -> NDArray[np.float32]:
        try:
            rows = sorted(response.json()["data"], key=lambda row: row["index"])
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (ValueError, KeyError, TypeError) as error:
            raise self._error("answered with something that are no embeddings") from error
        wanted = getattr(self, "dimensions", vectors.shape[-1])
        if vectors.shape != (count, wanted):
            raise self._error(f"answered with vectors of shape {vectors.shape}, not ({count}, {wanted})")
        return vectors

    def _error(self, problem: str) -> ModelError:
        return ModelError(f"{_FIELD}.url: {self._endpoint.url} {problem}", reason="EmbeddingUnavailable")


def _said(response: httpx.Response) -> str:
    """The endpoint's own words."""
    try:
        said = response.json()["error"]
        text = str(said["message"] if isinstance(said, dict) else said)
    except (ValueError, KeyError, TypeError):
        text = response.text
    return " ".join(text.split())[:300]


def _asked_pause(response: httpx.Response) -> float:
    """Seconds of Retry-After, if it says so."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return 0.0
