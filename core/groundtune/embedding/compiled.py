"""Models run by OpenVINO: on a CPU faster than by PyTorch, and ready without its import."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tokenizers import Tokenizer

from groundtune.errors import ModelError

_log = logging.getLogger(__name__)

#: Raise it when `compile_model` would write something else.
_FORMAT = 2
_BATCH = 16
_FAILED = "failed.txt"


Kind = Literal["embedding", "reranker"]


def compiled_folder(kind: Kind, folder: Path, uri: str, cache: Path) -> Path | None:
    """Where the compiled model is, made if it isn't there; None if OpenVINO can't take this model."""
    target = cache / "compiled" / f"{kind}-{_identity(folder, uri)}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if not target.is_dir():
            _compile(kind, folder, uri, target)
    return None if (target / _FAILED).exists() else target


def _identity(folder: Path, uri: str) -> str:
    """Of the model's files, and of what compiles them."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    facts = [[str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns] for path in files]
    versions = [metadata.version("openvino"), metadata.version("sentence-transformers"), _FORMAT]
    digest = hashlib.sha256(json.dumps([facts, versions]).encode()).hexdigest()[:12]
    return f"{uri.rstrip('/').rsplit('/', 1)[-1]}-{digest}"


def _compile(kind: Kind, folder: Path, uri: str, target: Path) -> None:
    building = Path(tempfile.mkdtemp(dir=target.parent, prefix=".building-"))
    try:
        command = [
            sys.executable,
            "-m",
            "groundtune.embedding.compile_model",
            kind,
            str(folder),
            str(building),
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode < 0:
            raise ModelError(
                f"{uri}: compiling it was killed by signal {-done.returncode}; is there memory enough?"
            )
        if done.returncode > 0:
            reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            _log.warning("%s can't be compiled, so PyTorch runs it: %s", uri, reason)
            (building / _FAILED).write_text(done.stderr, encoding="utf-8")
        building.replace(target)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def openvino() -> Any:
    """The package. It would report every import of itself to its makers; that part of it is shut out here."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as package

    return package


class _Compiled:
    """Batches of texts of like length, as many at once as there are cores."""

    def __init__(self, folder: Path) -> None:
        """`folder` is what `compiled_folder` gave."""
        package = openvino()
        self._facts: dict[str, Any] = json.loads((folder / "facts.json").read_text(encoding="utf-8"))
        self.max_tokens: int = self._facts["maxTokens"]
        self._tokenizer_json = (folder / "tokenizer.json").read_text(encoding="utf-8")
        self._encoder = Tokenizer.from_str(self._tokenizer_json)
        self._encoder.no_padding()
        self._encoder.enable_truncation(self.max_tokens)
        core = package.Core()
        model = core.read_model(folder / "model.xml")
        self._inputs = [next(iter(entrance.get_names())) for entrance in model.inputs]
        compiled = core.compile_model(model, "CPU", {"PERFORMANCE_HINT": "THROUGHPUT"})
        self._queue = package.AsyncInferQueue(compiled)
        self._queue.set_callback(_store)

    def _run(self, texts: Sequence[str | tuple[str, str]], width: int) -> NDArray[np.float32]:
        """What the model makes of each text, or of each pair of them; shape (len(texts), width)."""
        encodings = self._encoder.encode_batch_fast(list(texts))
        order = np.argsort([-len(each.ids) for each in encodings], kind="stable")
        made = np.empty((len(texts), width), dtype=np.float32)
        for first in range(0, len(order), _BATCH):
            rows = order[first : first + _BATCH]
            longest = len(encodings[rows[0]].ids)
            feed = {name: np.zeros((len(rows), longest), dtype=np.int64) for name in self._inputs}
            feed["input_ids"].fill(self._facts["padToken"])
            for place, row in enumerate(rows):
                encoding = encodings[row]
                size = len(encoding.ids)
                span = slice(longest - size, longest) if self._facts["padSide"] == "left" else slice(0, size)
                feed["input_ids"][place, span] = encoding.ids
                feed["attention_mask"][place, span] = 1
                if "token_type_ids" in feed:
                    feed["token_type_ids"][place, span] = encoding.type_ids
            self._queue.start_async(feed, (made, rows))
        self._queue.wait_all()
        return made


class CompiledModel(_Compiled):
    """An embedding model."""

    @property
    def dimensions(self) -> int:
        return int(self._facts["dimensions"])

    @property
    def tokenizer(self) -> Tokenizer:
        own = Tokenizer.from_str(self._tokenizer_json)
        own.no_truncation()
        own.no_padding()
        return own

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        return self._run(texts, self.dimensions)


class CompiledReranker(_Compiled):
    """A cross-encoder."""

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        return self._run(pairs, 1)[:, 0]


def _store(request: object, place: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    vectors, rows = place
    vectors[rows] = request.get_output_tensor().data  # type: ignore[attr-defined]
