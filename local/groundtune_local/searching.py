"""`groundtune search`: the serving path's own retrieval, from the command line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from groundtune.api import KnowledgeBaseSpec
from groundtune.retrieval.asking import ask_live
from groundtune.retrieval.filters import Comparison, Compound, Scalar
from groundtune.retrieval.search import Hit, Options
from groundtune.settings import settings
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import Stack, StackError


@dataclass(frozen=True)
class Question:
    """One line of a batch; `record` is the whole line, which the output repeats."""

    text: str
    record: dict[str, Any]


async def answer(
    stack: Stack,
    knowledge_base: str,
    questions: list[Question],
    options: Options,
) -> list[list[Hit]]:
    """The hits of each question, in order, from the version that is live now.

    Raises:
        StackError: nothing is live.
    """
    found = Kubectl(stack).get("kb", knowledge_base)
    spec = KnowledgeBaseSpec.model_validate(found["spec"])
    url = stack.database_url("groundtune_reader_login", "groundtune_reader")
    texts = [question.text for question in questions]
    uid, models = found["metadata"]["uid"], settings().models
    hits = await ask_live(url, uid, texts, spec.retrieval, models, options)
    if hits is None:
        raise StackError(f"knowledge base {knowledge_base!r} has no live version yet; see: kubectl get kb")
    return hits


def filter_of(given: Sequence[str]) -> Compound | None:
    """A filter for documents with all of the attributes, each given as KEY=VALUE.

    Raises:
        StackError: one is not that.
    """
    filters: list[Comparison | Compound] = []
    for each in given:
        key, equals, value = each.partition("=")
        if not equals or not key:
            raise StackError(f"--filter: {each!r} has to be KEY=VALUE")
        values: list[Scalar] = [value]
        try:
            other = json.loads(value)  # an attribute may be the text 7, or the number
        except ValueError:
            other = None
        if isinstance(other, bool | int | float):
            values.append(other)
        try:
            filters.append(Comparison(type="in", key=key, value=values))
        except ValidationError as error:
            raise StackError(f"--filter: {each!r}: {error.errors()[0]['msg']}") from error
    return Compound(type="and", filters=filters) if filters else None


def read_questions(path: Path) -> list[Question]:
    """A JSONL file, each line an object with `question`.

    Raises:
        StackError: a line is not that; it is named.
    """
    questions = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            text = record["question"]
        except (ValueError, KeyError, TypeError):
            text = None
        if not isinstance(text, str):
            raise StackError(f"{path}, line {number}: not a JSON object with a text `question`")
        questions.append(Question(text, record))
    return questions
