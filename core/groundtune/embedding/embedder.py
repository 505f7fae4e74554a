"""What the rest sees of an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from groundtune.api.knowledge_base import Embedding
from groundtune.models import has_gpu, resolve_model

Vectors = NDArray[np.float32]


class Backend(Protocol):
    """A model that is loaded."""

    max_tokens: int

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""

    @property
    def tokenizer(self) -> Tokenizer:
        """A tokenizer of its own: it neither cuts nor pads."""

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors, shape (len(texts), dimensions); what is beyond `max_tokens` of a text is not read."""


class Embedder:
    """A sentence-transformers model with the prefixes of a knowledge base.

    Vectors have unit length, so that cosine similarity is their dot product.
    """

    def __init__(self, spec: Embedding, cache: Path, *, patient: bool = True) -> None:
        """Load the model; on a CPU it is compiled into `cache` when it is used for the first time.

        Args:
            patient: of an endpoint: wait while it is away, as nobody waits for the answer.

        Raises:
            ModelError: it can't be found or loaded; an endpoint's also when it is asked.
        """
        folder = resolve_model(spec.model, spec.revision, cache, field="spec.embedding.model")
        self._spec = spec
        self._backend = _load(folder, spec, cache, patient)

    @property
    def dimensions(self) -> int:
        """Numbers in a vector."""
        return self._backend.dimensions

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that the model reads, special ones included; what is beyond is cut off."""
        return self._backend.max_tokens

    @property
    def tokenizer(self) -> Tokenizer:
        """A copy of the model's own tokenizer that neither cuts nor pads."""
        return self._backend.tokenizer

    def documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors of chunks, shape (len(texts), dimensions)."""
        return self._encode([self._spec.document_prefix + text for text in texts])

    def query(self, text: str) -> Vectors:
        """Vector of a question, shape (dimensions,)."""
        row: Vectors = self.queries([text])[0]
        return row

    def queries(self, texts: Sequence[str]) -> Vectors:
        """Vectors of questions, shape (len(texts), dimensions): many at a time cost a fraction of one by one."""
        return self._encode([self._spec.query_prefix + text for text in texts])

    def _encode(self, texts: list[str]) -> Vectors:
        if not texts:
            return np.empty((0, self.dimensions), dtype=np.float32)
        vectors = self._backend.encode(texts)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors


def _load(folder: Path, spec: Embedding, cache: Path, patient: bool) -> Backend:
    # Each backend is imported only where it is used: PyTorch alone takes longer to import than a refresh
    # without changes takes.
    if spec.endpoint is not None:
        from groundtune.embedding.endpoint import EndpointModel

        return EndpointModel(spec, folder, patient=patient)
    if not has_gpu():
        from groundtune.embedding.compiled import CompiledModel, compiled_folder

        compiled = compiled_folder("embedding", folder, spec.model, cache)
        if compiled is not None:
            return CompiledModel(compiled)
    from groundtune.embedding.torch_model import TorchModel

    return TorchModel(folder, spec.model)
