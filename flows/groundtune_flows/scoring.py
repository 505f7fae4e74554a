"""What a model, bare or with an adapter, makes of held-out chats."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import StoppingCriteriaList

from groundtune_flows.cores import SpareCores
from groundtune_flows.dataset import Example
from groundtune_flows.encoding import encode, prompt_of
from groundtune_flows.form import Form, OutOfForm
from groundtune_flows.training import answer_loss, padded, parts

#: Held-out chats that answers are generated for: the first ones, as generating is slow.
GENERATED = 16
_GENERATION_BATCH = 16


class HeldOut:
    """Held-out chats, ready to be put to models."""

    def __init__(
        self,
        tokenizer: Any,
        examples: Sequence[Example],
        max_length: int,
        form: Form | None,
        max_new_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoded = [encode(tokenizer, example.messages, max_length) for example in examples]
        self._prompts = [prompt_of(tokenizer, example.messages[:-1]) for example in examples[:GENERATED]]
        self._form = form
        self._cores = SpareCores()
        self._max_new_tokens = max_new_tokens

    def metrics(self, model: Any) -> dict[str, float]:
        """loss and perplexity of the answers, a token; formatMatch if a form is given."""
        model.eval()
        with torch.inference_mode():
            loss = self._loss(model)
            metrics = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
            if self._form is not None:
                metrics["formatMatch"] = self._format_match(model, self._form)
        return metrics

    def _loss(self, model: Any) -> float:
        learned = [one for one in self._encoded if one.answer_tokens]
        total = 0.0
        for batch in _batches(learned, 16):
            for part in parts({name: values.to(model.device) for name, values in padded(batch).items()}):
                self._cores.adjust()
                total += float(answer_loss(model, part))
        return total / max(1, sum(one.answer_tokens for one in learned))

    def _format_match(self, model: Any, form: Form) -> float:
        matches = 0
        self._cores.adjust()
        # prompts of similar length side by side: a batch is as wide as its longest
        for prompts in _batches(sorted(self._prompts, key=len), _GENERATION_BATCH):
            tokens = self._tokenizer(
                list(prompts),
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            ).to(model.device)
            width = tokens["input_ids"].shape[1]
            generated = model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                do_sample=False,
                max_new_tokens=self._max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
                stopping_criteria=StoppingCriteriaList(
                    [OutOfForm(form, self._decoded, width, self._cores.adjust)]
                ),
            )
            matches += sum(map(form.matches, self._decoded(generated[:, width:])))
        return matches / len(self._prompts)

    def _decoded(self, tokens: torch.Tensor) -> list[str]:
        texts: list[str] = self._tokenizer.batch_decode(tokens, skip_special_tokens=True)
        return texts


class Bench:
    """Measures the base model and adapters on it. An adapter is merged meanwhile, which spares its own layers."""

    def __init__(self, load: Callable[[], Any], held_out: HeldOut) -> None:
        self._load = load
        self._held_out = held_out
        self._model: Any = None

    def base(self) -> dict[str, float]:
        """Metrics of the base model by itself."""
        return self._held_out.metrics(self._loaded())

    def adapter(self, folder: Path) -> dict[str, float]:
        """Metrics of an adapter, from the files that would be served."""
        adapted = PeftModel.from_pretrained(self._loaded(), str(folder))
        adapted.merge_adapter()
        metrics = self._held_out.metrics(adapted)
        adapted.unmerge_adapter()
        self._model = adapted.unload()
        return metrics

    def _loaded(self) -> Any:
        if self._model is None:
            self._model = self._load()
        return self._model


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
