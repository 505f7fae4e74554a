"""From chats to tokens, and which of them are learned: the assistant's, as the model's own template writes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundtune.errors import ModelError

#: Label of a token that is read but not learned.
IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """Token ids and labels of one chat; `length` is that before it was cut."""

    input_ids: list[int]
    labels: list[int]
    length: int

    @property
    def answer_tokens(self) -> int:
        """Tokens that are learned."""
        return sum(label != IGNORED for label in self.labels[1:])


def load_tokenizer(folder: Path, uri: str) -> Any:
    """The base model's tokenizer.

    Raises:
        ModelError: it does not load, or has no chat template.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        line = str(error).splitlines()[0]
        raise ModelError(
            f"spec.baseModel.uri: the tokenizer of {uri} does not load: {line}", reason="ModelInvalid"
        ) from error
    if not tokenizer.chat_template:
        raise ModelError(
            f"spec.baseModel.uri: {uri} has no chat template, so that a chat can't be put to it; use an instruct model",
            reason="ModelInvalid",
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prompt_of(tokenizer: Any, messages: Sequence[dict[str, str]]) -> str:
    """What the model reads before it answers."""
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True))


def encode(tokenizer: Any, messages: Sequence[dict[str, str]], max_length: int) -> Encoded:
    """Tokens of a chat, cut to `max_length`; labels on every assistant turn and the mark that ends it.

    Raises:
        ModelError: the template writes a turn in another way once others follow, so that it can't be told apart.
    """
    text = str(tokenizer.apply_chat_template(list(messages), tokenize=False)).rstrip()
    spans: list[tuple[int, int]] = []
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = prompt_of(tokenizer, messages[:index])
        until = str(tokenizer.apply_chat_template(list(messages[: index + 1]), tokenize=False)).rstrip()
        if not (text.startswith(before) and text.startswith(until)):
            raise ModelError(
                "spec.baseModel.uri: the chat template changes earlier turns, so that answers can't be told apart",
                reason="ModelInvalid",
            )
        spans.append((len(before), len(until)))
    tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    labels = [
        token if any(start < last and end > first for first, last in spans) else IGNORED
        for token, (start, end) in zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
    ]
    ids = list(tokens["input_ids"])
    return Encoded(ids[:max_length], labels[:max_length], len(ids))
