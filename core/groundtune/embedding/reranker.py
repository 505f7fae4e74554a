"""Questions and passages to scores."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from groundtune.api.knowledge_base import Reranker
from groundtune.models import has_gpu, resolve_model

_THREAD = ThreadPoolExecutor(1, thread_name_prefix="reranking")


class CrossEncoder:
    """A cross-encoder of sentence-transformers."""

    def __init__(self, spec: Reranker, cache: Path) -> None:
        """Load the model; on a CPU it is compiled into `cache` when it is used for the first time.

        Raises:
            ModelError: it can't be found or loaded, or has more than one label.
        """
        folder = resolve_model(spec.model, spec.revision, cache, field="spec.retrieval.reranker.model")
        self._backend = _load(folder, spec.model, cache)

    def scores(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """How well each passage answers, from 0 to 1, shape (len(passages),)."""
        found: NDArray[np.float32] = self._backend.scores([(question, passage) for passage in passages])
        return found

    async def rerank(self, question: str, passages: Sequence[str]) -> NDArray[np.float32]:
        """The same in a thread, one question at a time."""
        return await asyncio.get_running_loop().run_in_executor(_THREAD, self.scores, question, passages)


class _Torch:
    """On the first GPU, or where OpenVINO can't take the model."""

    def __init__(self, folder: Path, uri: str) -> None:
        from groundtune.embedding.torch_model import load_cross_encoder

        self._model = load_cross_encoder(folder, uri)

    def scores(self, pairs: Sequence[tuple[str, str]]) -> NDArray[np.float32]:
        from torch.nn import Sigmoid

        found: NDArray[np.float32] = self._model.predict(
            list(pairs), activation_fn=Sigmoid(), show_progress_bar=False
        )
        return found


def _load(folder: Path, uri: str, cache: Path) -> Any:
    if not has_gpu():
        from groundtune.embedding.compiled import CompiledReranker, compiled_folder

        compiled = compiled_folder("reranker", folder, uri, cache)
        if compiled is not None:
            return CompiledReranker(compiled)
    return _Torch(folder, uri)
