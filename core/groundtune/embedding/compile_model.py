"""Compile a sentence-transformers model for OpenVINO: `python -m groundtune.embedding.compile_model FOLDER TARGET`.

In a process of its own, as it needs PyTorch and what uses the result does not. The graph holds all of the model's
modules (transformer, pooling, normalization, …), from token ids to the finished vector.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from groundtune.embedding.compiled import openvino
from groundtune.embedding.torch_model import load_sentence_transformer, window

_EXAMPLE = ["An example of some length, for the trace.", "Another one."]


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


def compile_model(folder: Path, target: Path) -> None:
    """Write `model.xml`, `model.bin`, `tokenizer.json` and `embedding.json` into the folder `target`."""
    model = load_sentence_transformer(folder, str(folder), "cpu")
    encoded = model.tokenizer(_EXAMPLE, padding=True, return_tensors="pt")
    names = list(encoded)
    package = openvino()
    with torch.no_grad():
        graph = package.convert_model(_Whole(model, names), example_input=tuple(encoded.values()))
    for name, entrance in zip(names, graph.inputs, strict=True):
        entrance.get_tensor().set_names({name})
    package.save_model(graph, target / "model.xml", compress_to_fp16=False)
    (target / "tokenizer.json").write_text(model.tokenizer.backend_tokenizer.to_str(), encoding="utf-8")
    facts = {
        "dimensions": int(model.get_embedding_dimension()),
        "maxTokens": window(model),
        "padToken": model.tokenizer.pad_token_id or 0,
        "padSide": model.tokenizer.padding_side,
    }
    (target / "embedding.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    compile_model(Path(sys.argv[1]), Path(sys.argv[2]))
