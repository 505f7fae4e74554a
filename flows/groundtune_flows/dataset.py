"""Reading and checking chats: before a minute of training is spent on them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from groundtune.api.sources import Source
from groundtune.errors import SourceError
from groundtune_flows.formats.text import decode
from groundtune_flows.jsonl import first_problem
from groundtune_flows.sources.discovery import jsonl_files
from groundtune_flows.sources.found import Places, UnreadableFile, read_whole


class Message(BaseModel):
    """One turn. What is not known here would be lost in training, so it is refused."""

    model_config = ConfigDict(extra="forbid")

    role: Literal["system", "user", "assistant", "tool"]
    content: Annotated[str, Field(min_length=1)]


class _Line(BaseModel):
    messages: Annotated[list[Message], Field(min_length=1)]

    @model_validator(mode="after")
    def _ends_with_an_answer(self) -> _Line:
        if self.messages[-1].role != "assistant":
            raise ValueError("the last of messages has to be the assistant's")
        if not self.messages[-1].content.strip():
            raise ValueError("the assistant's answer is empty")
        return self


@dataclass(frozen=True)
class Example:
    """A chat, and where it stands."""

    messages: list[dict[str, str]]
    where: str

    @property
    def key(self) -> str:
        """The same for the same chat."""
        return json.dumps(self.messages, sort_keys=True)

    @property
    def question(self) -> str:
        """The same for the same chat up to its answer, however it is spaced or capitalized."""
        turns = [
            [message["role"], " ".join(message["content"].lower().split())] for message in self.messages[:-1]
        ]
        return json.dumps(turns)


@dataclass(frozen=True)
class Problem:
    """What is wrong with a line."""

    where: str
    problem: str


@dataclass(frozen=True)
class Dataset:
    """Chats in the order of the files, and what is wrong with the lines that are not among them."""

    examples: list[Example]
    problems: list[Problem]

    @property
    def hash(self) -> str:
        """Identity of the content: that of the chats and their order, not of the files."""
        digest = hashlib.sha256()
        for example in self.examples:
            digest.update(example.key.encode())
        return digest.hexdigest()

    @property
    def duplicates(self) -> int:
        """Chats that are there more than once, counted without their first."""
        return sum(count - 1 for count in Counter(example.key for example in self.examples).values())


def load_dataset(source: Source, where: Places, *, field: str) -> Dataset:
    """Read chats from a JSONL file, or all of them under a folder.

    Raises:
        SourceError: there is none (reason DatasetNotFound).
    """
    examples: list[Example] = []
    problems: list[Problem] = []
    for file in jsonl_files(source, where, field=field, reason="DatasetNotFound"):
        name = file.name.rsplit("/", 1)[-1]
        try:
            text = decode(read_whole(file))
        except UnreadableFile as error:
            problems.append(Problem(name, str(error)))
            continue
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                parsed = _parse(line, f"{name} line {number}")
                (examples if isinstance(parsed, Example) else problems).append(parsed)  # type: ignore[arg-type]
    return Dataset(examples, problems)


def _parse(line: str, where: str) -> Example | Problem:
    try:
        parsed = _Line.model_validate_json(line)
    except ValidationError as error:
        return Problem(where, first_problem(error))
    return Example([message.model_dump() for message in parsed.messages], where)


def leaks(training: Dataset, held_out: Dataset) -> Iterator[Problem]:
    """Held-out chats whose question is trained on: what they measure is memory."""
    known = {example.question: example.where for example in training.examples}
    for example in held_out.examples:
        if example.question in known:
            yield Problem(example.where, f"asks what {known[example.question]} of the training data asks")


def require_valid(problems: Sequence[Problem], dataset: Dataset, field: str) -> None:
    """Refuse a dataset with problems, or without a chat.

    Raises:
        SourceError: with reason DatasetInvalid; names the field and the first line that is wrong.
    """
    if problems:
        more = f" ({len(problems) - 1} more in the run's table)" if len(problems) > 1 else ""
        raise SourceError(
            f"{field}: {problems[0].where}: {problems[0].problem}{more}", reason="DatasetInvalid"
        )
    if not dataset.examples:
        raise SourceError(f"{field}: holds no example", reason="DatasetInvalid")
