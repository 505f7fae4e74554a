"""`groundtune search`: the serving path's own retrieval, from the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundtune.api import KnowledgeBaseSpec
from groundtune.retrieval.asking import ask_live
from groundtune.retrieval.search import Hit
from groundtune.settings import settings
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import Stack, StackError


@dataclass(frozen=True)
class Question:
    """One line of a batch; `record` is the whole line, which the output repeats."""

    text: str
    record: dict[str, Any]


async def answer(
    stack: Stack, knowledge_base: str, questions: list[Question], top_k: int | None
) -> list[list[Hit]]:
    """The hits of each question, in order, from the version that is live now.

    Raises:
        StackError: nothing is live.
    """
    found = Kubectl(stack).get("kb", knowledge_base)
    spec = KnowledgeBaseSpec.model_validate(found["spec"])
    url = stack.database_url("groundtune_reader_login", "groundtune_reader")
    texts = [question.text for question in questions]
    hits = await ask_live(url, found["metadata"]["uid"], texts, spec.retrieval, settings().models, top_k)
    if hits is None:
        raise StackError(f"knowledge base {knowledge_base!r} has no live version yet; see: kubectl get kb")
    return hits


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
