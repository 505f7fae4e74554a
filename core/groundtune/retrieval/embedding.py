"""Text to vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from groundtune.api.knowledge_base import Embedding
from groundtune.errors import ModelError
from groundtune.models import fast_bfloat16, resolve_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Vectors = NDArray[np.float32]

_BATCH = 64


class Embedder:
    """A sentence-transformers model, with its prefixes and tokenizer.

    Vectors have unit length, so that cosine similarity is their dot product.
    """

    def __init__(self, spec: Embedding, cache: Path) -> None:
        """Load the model.

        Raises:
            ModelError: it can't be found or loaded.
        """
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging

        logging.disable_progress_bar()  # weights load within a second; the bar would stand in logs and answers
        folder = resolve_model(spec.model, spec.revision, cache, field="spec.embedding.model")
        try:
            self._model = SentenceTransformer(str(folder), device=None, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"spec.embedding.model: {spec.model} does not load: {error}", reason="ModelInvalid"
            ) from error
        if self._model.device.type == "cpu" and fast_bfloat16():
            self._model = self._model.bfloat16()
        self._spec = spec
        dimensions = self._model.get_embedding_dimension()
        if dimensions is None:
            raise ModelError(
                f"spec.embedding.model: {spec.model} is not an embedding model", reason="ModelInvalid"
            )
        self.dimensions: int = dimensions

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer (fast, with offsets)."""
        return self._model.tokenizer

    @property
    def max_tokens(self) -> int:
        """Tokens of a text that the model reads; what is beyond is cut off."""
        return int(self._model.max_seq_length or 512)

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
        # sentence-transformers sorts by length itself, so that a batch wastes little padding
        encoded = self._model.encode(
            texts,
            batch_size=_BATCH,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        vectors: Vectors = encoded.float().cpu().numpy()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors
