"""What base, promoted and candidate make of the same held-out chats, in one process."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from groundtune_flows.dataset import Example
from groundtune_flows.encoding import encode, prompt_of
from groundtune_flows.training import answer_loss, padded, parts

#: Held-out chats that answers are generated for: the first ones, as generating is slow.
GENERATED = 24
_GENERATION_BATCH = 24


class HeldOut:
    """Held-out chats, ready to be put to models."""

    def __init__(
        self,
        tokenizer: Any,
        examples: Sequence[Example],
        max_length: int,
        pattern: str | None,
        max_new_tokens: int,
    ) -> None:
        self._tokenizer = tokenizer
        self._encoded = [encode(tokenizer, example.messages, max_length) for example in examples]
        self._prompts = [prompt_of(tokenizer, example.messages[:-1]) for example in examples[:GENERATED]]
        self._pattern = re.compile(pattern, re.DOTALL) if pattern is not None else None
        self._max_new_tokens = max_new_tokens

    def metrics(self, model: Any) -> dict[str, float]:
        """loss and perplexity of the answers, a token; formatMatch if a pattern is given."""
        model.eval()
        with torch.inference_mode():
            loss = self._loss(model)
            metrics = {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}
            if self._pattern is not None:
                metrics["formatMatch"] = self._format_match(model, self._pattern)
        return metrics

    def _loss(self, model: Any) -> float:
        learned = [one for one in self._encoded if one.answer_tokens]
        total = 0.0
        for batch in _batches(learned, 16):
            for part in parts({name: values.to(model.device) for name, values in padded(batch).items()}):
                total += float(answer_loss(model, part))
        return total / max(1, sum(one.answer_tokens for one in learned))

    def _format_match(self, model: Any, pattern: re.Pattern[str]) -> float:
        matches = 0
        # prompts of similar length side by side: a batch is as wide as its longest
        for prompts in _batches(sorted(self._prompts, key=len), _GENERATION_BATCH):
            tokens = self._tokenizer(
                list(prompts),
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
            ).to(model.device)
            generated = model.generate(
                input_ids=tokens["input_ids"],
                attention_mask=tokens["attention_mask"],
                do_sample=False,
                max_new_tokens=self._max_new_tokens,
                pad_token_id=self._tokenizer.pad_token_id,
            )
            answers = self._tokenizer.batch_decode(
                generated[:, tokens["input_ids"].shape[1] :], skip_special_tokens=True
            )
            matches += sum(pattern.fullmatch(answer.strip()) is not None for answer in answers)
        return matches / len(self._prompts)


def compare(
    base: Any, held_out: HeldOut, candidate: Path, promoted: Path | None
) -> tuple[dict[str, float], dict[str, float], dict[str, float] | None]:
    """Metrics of the candidate, the base model and the promoted adapter, from the files that would be served."""
    model = PeftModel.from_pretrained(base, str(candidate), adapter_name="candidate")
    if promoted is not None:
        model.load_adapter(str(promoted), adapter_name="promoted")

    def of(adapter: str | None) -> dict[str, float]:
        if adapter is not None:
            model.set_adapter(adapter)
        without: AbstractContextManager[Any] = model.disable_adapter() if adapter is None else nullcontext()
        with without:
            return held_out.metrics(model)

    return of("candidate"), of(None), of("promoted") if promoted is not None else None


def _batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    return [items[start : start + size] for start in range(0, len(items), size)]
