"""An embedding model run by PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from groundtune.errors import ModelError

_BATCH = 64
#: Tokens that a model is taken to read which does not say it.
_DEFAULT_WINDOW = 512


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Says which model it is that does not load."""
    try:
        yield
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise ModelError(f"{model} does not load: {line}", reason="ModelInvalid") from error


def load_sentence_transformer(folder: Path, uri: str, device: str | None = None) -> Any:
    """The sentence-transformers model in a folder.

    Raises:
        ModelError: it does not load, or is no embedding model.
    """
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging

    logging.disable_progress_bar()  # weights load within a second; the bar would stand in logs and answers
    with _named(f"spec.embedding.model: {uri}"):
        model = SentenceTransformer(str(folder), device=device, local_files_only=True)
    if model.get_embedding_dimension() is None:
        raise ModelError(f"spec.embedding.model: {uri} is not an embedding model", reason="ModelInvalid")
    return model.eval()


def load_cross_encoder(folder: Path, uri: str, device: str | None = None) -> Any:
    """The cross-encoder in a folder.

    Raises:
        ModelError: it does not load, or has more than one label.
    """
    from sentence_transformers import CrossEncoder

    with _named(f"spec.retrieval.reranker.model: {uri}"):
        model = CrossEncoder(str(folder), device=device, local_files_only=True)
    if model.num_labels != 1:
        raise ModelError(
            f"spec.retrieval.reranker.model: {uri} has {model.num_labels} labels; a reranker has one",
            reason="ModelInvalid",
        )
    return model.eval()


def window(model: Any) -> int:
    """Tokens that the model reads."""
    return int(
        getattr(model, "max_seq_length", None) or getattr(model, "max_length", None) or _DEFAULT_WINDOW
    )


class TorchModel:
    """On the first GPU if there is one."""

    def __init__(self, folder: Path, uri: str) -> None:
        """Raises ModelError if the model does not load."""
        self._model = load_sentence_transformer(folder, uri)
        if self._model.device.type == "cuda":
            self._model = self._model.bfloat16()
        self.dimensions = int(self._model.get_embedding_dimension())
        self.max_tokens = window(self._model)

    @property
    def tokenizer(self) -> Tokenizer:
        own = Tokenizer.from_str(self._model.tokenizer.backend_tokenizer.to_str())
        own.no_truncation()
        own.no_padding()
        return own

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        # sentence-transformers sorts by length itself, so that a batch wastes little padding
        encoded = self._model.encode(
            list(texts), batch_size=_BATCH, convert_to_tensor=True, show_progress_bar=False
        )
        vectors: NDArray[np.float32] = encoded.float().cpu().numpy()
        return vectors
