"""The golden set: questions, and where their answers stand."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, StringConstraints, ValidationError
from pydantic import Field as PydanticField

from groundtune.api.sources import Source
from groundtune.errors import SpecError
from groundtune_flows.formats.text import decode
from groundtune_flows.jsonl import first_problem
from groundtune_flows.sources.discovery import jsonl_files
from groundtune_flows.sources.found import Places, UnreadableFile, read_whole

_Filled = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Relevant(BaseModel):
    """A passage that answers: a quote of a document, or without one any passage of it."""

    source: _Filled
    text: _Filled | None = None


class Question(BaseModel):
    """One line of the file; other fields are left to its author. `bootstrap`: no person has written it."""

    question: _Filled
    bootstrap: bool = False
    relevant: Annotated[list[Relevant], PydanticField(min_length=1)]


@dataclass(frozen=True)
class Golden:
    """Questions, the hash of the files that they came from, and where those are."""

    questions: list[Question]
    hash: str
    uris: frozenset[str] = frozenset()

    @property
    def bootstrap(self) -> int:
        """Questions that no person has written."""
        return sum(question.bootstrap for question in self.questions)


@dataclass(frozen=True)
class Place:
    """Where an expected passage stands: spans in documents, by URI; None is the whole document."""

    spans: dict[str, list[tuple[int, int]] | None]

    def holds(self, uri: str, start: int, end: int) -> bool:
        """Whether the passage overlaps it."""
        if uri not in self.spans:
            return False
        spans = self.spans[uri]
        return spans is None or any(start < last and first < end for first, last in spans)


def load_golden(source: Source, where: Places) -> Golden:
    """Read and check the golden set.

    Raises:
        SpecError: it is missing (reason GoldenSetNotFound), or a line is wrong (GoldenSetInvalid); names the line.
    """
    field = "spec.evaluation.dataset"
    digest = hashlib.sha256()
    questions: list[Question] = []
    files = jsonl_files(source, where, field=field, reason="GoldenSetNotFound")
    for file in files:
        name = file.name.rsplit("/", 1)[-1]
        try:
            data = read_whole(file)
            text = decode(data)
        except UnreadableFile as error:
            raise SpecError(f"{field}: {name} {error}", reason="GoldenSetInvalid") from error
        digest.update(data)
        for number, line in enumerate(text.split("\n"), start=1):
            if line.strip():
                questions.append(_question(line, f"{field}: {name} line {number}"))
    if not questions:
        raise SpecError(f"{field}: holds no question", reason="GoldenSetInvalid")
    return Golden(questions, digest.hexdigest(), frozenset(file.uri for file in files))


def _question(line: str, where: str) -> Question:
    try:
        return Question.model_validate_json(line)
    except ValidationError as error:
        raise SpecError(f"{where}: {first_problem(error)}", reason="GoldenSetInvalid") from None


def is_source(uri: str, end: str) -> bool:
    """Whether `end` names the document: its whole URI, or whole last parts of its path."""
    return uri == end or uri.endswith("/" + end.lstrip("/"))


def place(relevant: Relevant, documents: Sequence[tuple[str, str]]) -> Place:
    """Find an expected passage in documents, given as (URI, text); spaces and line breaks count as the same."""
    spans: dict[str, list[tuple[int, int]] | None] = {}
    pattern = (
        None if relevant.text is None else re.compile(r"\s+".join(map(re.escape, relevant.text.split())))
    )
    for uri, text in documents:
        if is_source(uri, relevant.source):
            spans[uri] = None if pattern is None else [match.span() for match in pattern.finditer(text)]
    return Place(spans)
