"""What training is put together from, on a Llama small enough to compare with the textbook's way."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from groundtune.api.fine_tune_job import Training
from groundtune.errors import ModelError
from groundtune_flows.encoding import IGNORED, Encoded, encode, prompt_of
from groundtune_flows.training import (
    answer_loss,
    newest_checkpoint,
    padded,
    parts,
    total_steps,
    training_batches,
)

_TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<end>{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    words = [
        "[UNK]",
        "[PAD]",
        "<",
        ">",
        "end",
        "user",
        "assistant",
        "system",
        "hi",
        "there",
        "yes",
        "no",
        "why",
        "so",
    ]
    made = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]")
    fast.chat_template = _TEMPLATE
    return fast


def turns(*contents: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]


def test_every_answer_and_its_end_is_learned_and_nothing_else(tokenizer: Any) -> None:
    encoded = encode(tokenizer, turns("hi there", "yes", "why", "so"), 100)
    learned = tokenizer.decode([token for token in encoded.labels if token != IGNORED])
    assert learned.split() == ["yes", "<", "end", ">", "so", "<", "end", ">"]
    assert len(encoded.labels) == len(encoded.input_ids) == encoded.length
    assert prompt_of(tokenizer, turns("hi")) == "<user>hi<end>\n<assistant>"


def test_a_long_chat_is_cut(tokenizer: Any) -> None:
    whole = encode(tokenizer, turns("hi there", "yes"), 100)
    cut = encode(tokenizer, turns("hi there", "yes"), 6)
    assert (cut.input_ids, cut.length, cut.answer_tokens) == (whole.input_ids[:6], whole.length, 0)


def test_a_template_that_rewrites_earlier_turns_is_refused(tokenizer: Any) -> None:
    odd = tokenizer.__class__(tokenizer_object=tokenizer.backend_tokenizer)
    odd.chat_template = "{{ messages | length }}" + _TEMPLATE
    with pytest.raises(ModelError, match=r"spec\.baseModel\.uri: the chat template changes earlier turns"):
        encode(odd, turns("hi", "yes", "why", "so"), 100)


def examples() -> list[Encoded]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for length, answer in ((9, 3), (30, 12), (4, 2), (17, 17), (22, 1)):
        ids = torch.randint(2, 50, (length,), generator=generator).tolist()
        made.append(Encoded(ids, [IGNORED] * (length - answer) + ids[length - answer :], length))
    return made


def test_the_loss_and_its_gradient_are_those_of_one_example_at_a_time() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2
    )
    model = LlamaForCausalLM(config)
    model.zero_grad()
    expected = torch.zeros(())
    for one in examples():
        logits = model(torch.tensor([one.input_ids])).logits[0, :-1]
        wanted = torch.tensor(one.labels[1:])
        expected = expected + torch.nn.functional.cross_entropy(
            logits, wanted, ignore_index=IGNORED, reduction="sum"
        )
    expected.backward()
    wanted_gradient = model.model.embed_tokens.weight.grad.clone()
    model.zero_grad()
    got = torch.zeros(())
    widths = []
    for part in parts(padded(examples()), tokens=40):
        widths.append(part["input_ids"].shape)
        loss = answer_loss(model, part)
        loss.backward()
        got = got + loss.detach()
    assert len(widths) > 1
    assert all(rows == 1 or rows * width <= 40 for rows, width in widths)
    assert torch.allclose(got, expected.detach(), rtol=1e-4)
    assert torch.allclose(model.model.embed_tokens.weight.grad, wanted_gradient, atol=1e-4)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 500), min_size=1, max_size=60),
    size=st.integers(1, 9),
    passes=st.integers(1, 4),
)
def test_batches_hold_every_example_once_a_pass(lengths: list[int], size: int, passes: int) -> None:
    a_pass = -(-len(lengths) // size)
    batches = training_batches(lengths, size, passes * a_pass, seed=3)
    assert batches == training_batches(lengths, size, passes * a_pass, seed=3)
    assert all(1 <= len(batch) <= size for batch in batches)
    for start in range(0, len(batches), a_pass):
        counts = Counter(number for batch in batches[start : start + a_pass] for number in batch)
        assert counts == dict.fromkeys(range(len(lengths)), 1)


def test_batches_waste_little_padding() -> None:
    lengths = list(range(1, 161))
    batches = training_batches(lengths, 8, 20, seed=0)
    assert sum(max(batch) * len(batch) for batch in batches) < 1.1 * sum(lengths)
    assert batches != sorted(batches)


@pytest.mark.parametrize(
    ("training", "count", "steps"),
    [
        ({}, 16, 2),
        ({"epochs": 2, "batchSize": 8}, 178, 46),
        ({"epochs": 0.5, "batchSize": 4}, 16, 2),
        ({"epochs": 1, "batchSize": 4, "gradientAccumulation": 4}, 20, 2),
        ({"maxSteps": 7}, 1000, 7),
    ],
)
def test_total_steps(training: dict[str, Any], count: int, steps: int) -> None:
    assert total_steps(Training.model_validate(training), count) == steps


def test_a_checkpoint_that_was_not_finished_is_none(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) is None
    for step, state in (
        (5, json.dumps({"global_step": 5})),
        (10, json.dumps({"global_step": 10})),
        (15, '{"glo'),
    ):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        (folder / "trainer_state.json").write_text(state)
    (tmp_path / "checkpoint-20").mkdir()
    assert newest_checkpoint(tmp_path) == str(tmp_path / "checkpoint-10")
