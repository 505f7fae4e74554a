"""Training a LoRA adapter, resumable from its last checkpoint.

Memory is what limits it: a batch goes through the model in parts of at most `_FORWARD_TOKENS` tokens, and logits are
only made where an answer is learned. Neither changes the gradient: losses are summed, and divided once by all the
answer tokens of the step.
"""

from __future__ import annotations

import json
import math
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from groundtune.api.fine_tune_job import FineTuneJobSpec, Training
from groundtune.errors import GroundtuneError, ModelError, SpecError
from groundtune_flows.cores import SpareCores
from groundtune_flows.encoding import IGNORED, Encoded

#: Tokens, padding included, in one pass through the model.
_FORWARD_TOKENS = 512
_WARMUP_SHARE = 0.05
#: Batches that similar lengths are looked for in.
_WINDOW_BATCHES = 50


@dataclass(frozen=True)
class Step:
    """Where training stands; `tokens` are those of this process."""

    step: int
    total: int
    loss: float
    eta_seconds: int
    tokens: int


def total_steps(training: Training, examples: int) -> int:
    """Optimizer steps of a whole training."""
    if training.max_steps is not None:
        return training.max_steps
    batches = math.ceil(examples / training.batch_size)
    return max(1, math.ceil((training.epochs or 1.0) * math.ceil(batches / training.gradient_accumulation)))


def training_batches(lengths: Sequence[int], batch_size: int, count: int, seed: int) -> list[list[int]]:
    """Numbers of the examples of every batch: shuffled passes over all of them, similar lengths in a batch.

    It is worked out beforehand, so that a resumed training goes on with the very batches it would have had.
    """
    shuffle = random.Random(seed).shuffle  # noqa: S311 (an order, not a secret)
    batches: list[list[int]] = []
    while len(batches) < count:
        order = list(range(len(lengths)))
        shuffle(order)
        window = batch_size * _WINDOW_BATCHES
        of_pass: list[list[int]] = []
        for start in range(0, len(order), window):
            similar = sorted(order[start : start + window], key=lambda number: lengths[number])
            of_pass += [similar[first : first + batch_size] for first in range(0, len(similar), batch_size)]
        shuffle(of_pass)
        batches += of_pass
    return batches[:count]


def load_base(folder: Path, uri: str) -> Any:
    """The base model, in fp32 on a CPU (bf16 is slower there without instructions for it) and bf16 on a GPU.

    Raises:
        ModelError: it does not load.
    """
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    try:
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise ModelError(f"spec.baseModel.uri: {uri} does not load: {line}", reason="ModelInvalid") from error


def train(
    base: Any,
    spec: FineTuneJobSpec,
    examples: Sequence[Encoded],
    folder: Path,
    report: Callable[[Step], None],
) -> Any:
    """Train on the examples, from the newest complete checkpoint in `folder` if there is one; the adapted model.

    Raises:
        SpecError: the model has no module of a name in spec.method.targetModules.
        GroundtuneError: the loss is not a number any more (reason TrainingDiverged).
    """
    training = spec.training
    cores = SpareCores()
    torch.manual_seed(training.seed)
    modules: str | list[str] = list(spec.method.target_modules)
    if modules == ["all-linear"]:
        modules = "all-linear"
    config = LoraConfig(
        r=spec.method.rank,
        lora_alpha=spec.method.alpha,
        lora_dropout=spec.method.dropout,
        target_modules=modules,
        task_type="CAUSAL_LM",
    )
    try:
        model = get_peft_model(base, config)
    except ValueError as error:
        raise SpecError(f"spec.method.targetModules: {modules}: {str(error).splitlines()[0]}") from error
    steps = total_steps(training, len(examples))
    batches = training_batches(
        [len(one.input_ids) for one in examples],
        training.batch_size,
        steps * training.gradient_accumulation,
        training.seed,
    )
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=1,  # of what are batches already
        gradient_accumulation_steps=training.gradient_accumulation,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=_WARMUP_SHARE,
        weight_decay=0.0,
        max_grad_norm=1.0,
        seed=training.seed,
        train_sampling_strategy="sequential",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=spec.checkpoint.every_steps,
        save_total_limit=2,
        bf16=torch.cuda.is_available(),
        gradient_checkpointing=False,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
    )
    trainer = _AnswerTrainer(
        cores,
        model=model,
        args=arguments,
        train_dataset=[[examples[number] for number in batch] for batch in batches],
        data_collator=_collate,
    )
    trainer.remove_callback(PrinterCallback)  # the reporter tells the same where it is looked for
    trainer.add_callback(_Reporter(trainer, report))
    try:
        trainer.train(resume_from_checkpoint=newest_checkpoint(folder))
    except Diverged as error:
        # what led here would lead here again
        shutil.rmtree(folder, ignore_errors=True)
        raise GroundtuneError(
            f"{error}; a lower spec.training.learningRate may help", reason="TrainingDiverged"
        ) from None
    return model


def newest_checkpoint(folder: Path) -> str | None:
    """The newest one that was written to its end; the trainer's state comes last."""
    steps: dict[int, Path] = {}
    for state in folder.glob("checkpoint-*/trainer_state.json"):
        try:
            steps[int(json.loads(state.read_text())["global_step"])] = state.parent
        except (ValueError, KeyError):
            continue
    return str(steps[max(steps)]) if steps else None


class Diverged(Exception):
    """The loss of a step is not a number."""


def _collate(batches: Sequence[Sequence[Encoded]]) -> dict[str, torch.Tensor]:
    (batch,) = batches
    return padded(batch)


def padded(batch: Sequence[Encoded]) -> dict[str, torch.Tensor]:
    """One batch, padded on the left, so that the answers, which come last, stand side by side.

    What is padded is neither read (`attention_mask`) nor learned.
    """
    width = max(len(one.input_ids) for one in batch)

    def rows(values: Sequence[list[int]], fill: int) -> torch.Tensor:
        return torch.tensor([[fill] * (width - len(row)) + row for row in values])

    return {
        "input_ids": rows([one.input_ids for one in batch], 0),
        "labels": rows([one.labels for one in batch], IGNORED),
        "attention_mask": rows([[1] * len(one.input_ids) for one in batch], 0),
    }


def parts(batch: dict[str, torch.Tensor], tokens: int = _FORWARD_TOKENS) -> Iterator[dict[str, torch.Tensor]]:
    """The batch in parts of at most `tokens` (or of one example), similar lengths together, padding cut off."""
    lengths = batch["attention_mask"].sum(dim=1)
    rows: list[int] = []
    for row in [*torch.argsort(lengths).tolist(), None]:
        if rows and (row is None or int(lengths[row]) * (len(rows) + 1) > tokens):
            width = int(lengths[rows].max())
            yield {name: values[rows, -width:] for name, values in batch.items()}
            rows = []
        if row is not None:
            rows.append(row)


def answer_loss(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Sum of the losses of the learned tokens; logits are only made for columns that hold one."""
    labels = batch["labels"]
    columns = (labels[:, 1:] != IGNORED).any(dim=0).nonzero().squeeze(1)
    mask = batch["attention_mask"]
    output = model(
        input_ids=batch["input_ids"],
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        logits_to_keep=columns,
        use_cache=False,
    )
    logits = output.logits.float().flatten(0, 1)
    wanted = labels[:, columns + 1].flatten()
    return torch.nn.functional.cross_entropy(logits, wanted, ignore_index=IGNORED, reduction="sum")


class _AnswerTrainer(Trainer):  # type: ignore[misc]
    def __init__(self, cores: SpareCores, **arguments: Any) -> None:
        super().__init__(**arguments)
        # losses are divided by all the answer tokens of a step, over all its accumulated batches
        self.model_accepts_loss_kwargs = True
        self.tokens = 0
        self._cores = cores

    def training_step(
        self, model: Any, inputs: dict[str, torch.Tensor], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        total = torch.zeros((), device=inputs["labels"].device)
        for part in parts(inputs):
            self._cores.adjust()
            with self.compute_loss_context_manager():
                loss = answer_loss(model, part) / num_items_in_batch
            self.accelerator.backward(loss)
            total += loss.detach()
        if not torch.isfinite(total):
            raise Diverged(f"the loss of step {self.state.global_step + 1} is {total.item()}")
        self.tokens += int(inputs["attention_mask"].sum())
        return total


class _Reporter(TrainerCallback):  # type: ignore[misc]
    def __init__(self, trainer: _AnswerTrainer, report: Callable[[Step], None]) -> None:
        self._trainer = trainer
        self._report = report
        self._first = 0
        self._began = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._first, self._began = state.global_step, time.monotonic()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "loss" not in logs:
            return
        pace = (time.monotonic() - self._began) / max(1, state.global_step - self._first)
        left = round(pace * (state.max_steps - state.global_step))
        self._report(
            Step(state.global_step, state.max_steps, float(logs["loss"]), left, self._trainer.tokens)
        )
