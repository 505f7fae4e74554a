"""`groundtune kb`: the versions of a knowledge base, the way back to one, and questions to measure them by."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from sqlalchemy import Connection

from groundtune.api.common import REQUEST_ANNOTATION, ROLLBACK_ANNOTATION
from groundtune.registry import contents, corpora
from groundtune.registry.database import connect
from groundtune.registry.tables import CorpusVersionRow, VersionState
from groundtune_flows.bootstrap import Passage, simulated_questions
from groundtune_local.kubectl import Kubectl
from groundtune_local.options import DataDir, folder
from groundtune_local.stack import Stack, StackError

app = typer.Typer(help="Versions of a knowledge base.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

Name = Annotated[str, typer.Argument(metavar="KB", help="Name of the KnowledgeBase.")]

_SECONDS = 60.0
#: Passages that questions are drawn from.
_SAMPLED = 5000


@app.command()
def versions(knowledge_base: Name, data_dir: DataDir = None) -> None:
    """List the versions that are kept, newest first."""
    stack = Stack.load(folder(data_dir))
    scores = ("recall", "precision", "mrr", "ndcg")
    heads = ("Version", "State", "Finished", "Docs", "Chunks", "Recall", "Prec.", "MRR", "nDCG")
    table = Table(*heads, box=None, pad_edge=False, padding=(0, 1, 0, 0))  # fits into 80 columns
    for row in _history(stack, Kubectl(stack), knowledge_base):
        finished = f"{row.finished_at:%Y-%m-%d %H:%M}" if row.finished_at else ""
        told = (row.documents, row.chunks) if row.finished_at else ("", "")
        shown = [f"{row.evaluation[name]:.3f}" if row.evaluation else "" for name in scores]
        table.add_row(str(row.version), row.state.capitalize(), finished, *map(str, told), *shown)
    console.print(table)


@app.command()
def refresh(knowledge_base: Name, data_dir: DataDir = None) -> None:
    """Ask for a refresh now."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    kubectl = Kubectl(Stack.load(folder(data_dir)))
    kubectl.run("annotate", "--overwrite", f"kb/{knowledge_base}", f"{REQUEST_ANNOTATION}={now}")
    console.print(f"Asked for. Follow it with: kubectl get kb {knowledge_base} --watch")


@app.command()
def rollback(
    knowledge_base: Name,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Version [default: the newest before the live one].")
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Make an earlier version live again, at once; it stays so until the sources change."""
    stack = Stack.load(folder(data_dir))
    kubectl = Kubectl(stack)
    wanted = to if to is not None else _before(_history(stack, kubectl, knowledge_base))
    value = f"{wanted}@{datetime.now(UTC).isoformat(timespec='milliseconds')}"
    kubectl.run("annotate", "--overwrite", f"kb/{knowledge_base}", f"{ROLLBACK_ANNOTATION}={value}")
    deadline = time.monotonic() + _SECONDS
    while time.monotonic() < deadline:
        status = kubectl.get("kb", knowledge_base).get("status", {})
        if status.get("lastHandledRollback") == value:
            break
        time.sleep(0.5)
    else:
        raise StackError(f"the operator did not act within {_SECONDS:.0f} s; is it up?")
    live = _live(_history(stack, kubectl, knowledge_base))
    if live != wanted:
        raise StackError(f"version {wanted} can't be made live; see: groundtune kb versions {knowledge_base}")
    console.print(f"Version {wanted} is live.")


@app.command("bootstrap-eval")
def bootstrap_eval(
    knowledge_base: Name,
    output: Annotated[Path, typer.Option("--output", help="JSONL file to write.")] = Path("golden.jsonl"),
    questions: Annotated[int, typer.Option(min=1, max=1000, help="Questions to make up.")] = 50,
    data_dir: DataDir = None,
) -> None:
    """Write a golden set made up from the live corpus: a beginning, until people have written questions."""
    stack = Stack.load(folder(data_dir))
    with _registry(stack) as connection:
        live = corpora.live_version(connection, _uid(Kubectl(stack), knowledge_base))
        if live is None:
            raise StackError(
                f"knowledge base {knowledge_base!r} has no live version yet; see: kubectl get kb"
            )
        rows = contents.some_passages(connection, live.space_id, live.version, _SAMPLED)
    lines = simulated_questions([Passage(*row) for row in rows], questions)
    if not lines:
        raise StackError(f"version {live.version} has no sentence long enough to ask about")
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with output.open("x", encoding="utf-8") as file:  # never over questions that somebody wrote
        file.write(text)
    console.print(f"{len(lines)} questions in {output}, each marked as bootstrap.")
    console.print("They tell whether the index finds what it holds, not whether it answers what people ask: ")
    console.print("replace them by real questions, then name the file in spec.evaluation.dataset.")


def _history(stack: Stack, kubectl: Kubectl, name: str) -> list[CorpusVersionRow]:
    with _registry(stack) as connection:
        return corpora.history(connection, _uid(kubectl, name))


def _uid(kubectl: Kubectl, name: str) -> str:
    return str(kubectl.get("kb", name)["metadata"]["uid"])


@contextmanager
def _registry(stack: Stack) -> Iterator[Connection]:
    engine = connect(stack.database_url("groundtune_reader_login", "groundtune_reader"))
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _before(history: list[CorpusVersionRow]) -> int:
    """The newest version before the live one that was live itself."""
    live = _live(history) or 0
    earlier = [row.version for row in history if row.state == VersionState.SUPERSEDED and row.version < live]
    if not earlier:
        raise StackError("there is no earlier version to go back to")
    return earlier[0]


def _live(history: list[CorpusVersionRow]) -> int | None:
    return next((row.version for row in history if row.state == VersionState.LIVE), None)
