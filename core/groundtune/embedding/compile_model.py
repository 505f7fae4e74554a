"""Compile a sentence-transformers model for OpenVINO: `python -m … KIND FOLDER TARGET`.

KIND is `embedding` or `reranker`. In a process of its own, as it needs PyTorch and what uses the result does not. The
graph holds all of the model's modules (transformer, pooling, normalization, …), from token ids to the finished vector
or score.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from groundtune.embedding.compiled import openvino
from groundtune.embedding.torch_model import load_cross_encoder, load_sentence_transformer, window

_EXAMPLE = ["An example of some length, for the trace.", "Another one."]
_PAIRS = [(_EXAMPLE[0], _EXAMPLE[1]), (_EXAMPLE[1], _EXAMPLE[0])]


class _Whole(torch.nn.Module):
    """The model as a function of its tensors, in the order of `names`."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self._model = model
        self._names = names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        features = self._model(dict(zip(self._names, tensors, strict=True)))
        vector: torch.Tensor = features["sentence_embedding"]
        return vector


class _Score(torch.nn.Module):
    """A cross-encoder as a function of its tensors, in the order of `names`; from 0 to 1."""

    def __init__(self, model: Any, names: list[str]) -> None:
        super().__init__()
        self._model = model
        self._names = names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self._model(**dict(zip(self._names, tensors, strict=True))).logits)


def compile_model(kind: str, folder: Path, target: Path) -> None:
    """Write `model.xml`, `model.bin`, `tokenizer.json` and `facts.json` into the folder `target`."""
    facts: dict[str, Any] = {}
    if kind == "reranker":
        encoder = load_cross_encoder(folder, str(folder), "cpu")
        tokenizer, longest = encoder.tokenizer, window(encoder)
        encoded = tokenizer(_PAIRS, padding=True, return_tensors="pt")
        whole: torch.nn.Module = _Score(encoder.model, list(encoded))
    else:
        model = load_sentence_transformer(folder, str(folder), "cpu")
        tokenizer, longest = model.tokenizer, window(model)
        encoded = tokenizer(_EXAMPLE, padding=True, return_tensors="pt")
        whole = _Whole(model, list(encoded))
        facts["dimensions"] = int(model.get_embedding_dimension())
    names = list(encoded)
    package = openvino()
    with torch.no_grad():
        graph = package.convert_model(whole, example_input=tuple(encoded.values()))
    for name, entrance in zip(names, graph.inputs, strict=True):
        entrance.get_tensor().set_names({name})
    package.save_model(graph, target / "model.xml", compress_to_fp16=False)
    (target / "tokenizer.json").write_text(tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    facts |= {
        "maxTokens": longest,
        "padToken": tokenizer.pad_token_id or 0,
        "padSide": tokenizer.padding_side,
    }
    (target / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    compile_model(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
