"""`groundtune kb`: the versions of a knowledge base, and the way back to one."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from groundtune.api.common import REQUEST_ANNOTATION, ROLLBACK_ANNOTATION
from groundtune.registry import corpora
from groundtune.registry.database import connect
from groundtune.registry.tables import CorpusVersionRow, VersionState
from groundtune_local.kubectl import Kubectl
from groundtune_local.options import DataDir, folder
from groundtune_local.stack import Stack, StackError

app = typer.Typer(help="Versions of a knowledge base.", no_args_is_help=True)
console = Console(highlight=False, soft_wrap=True)

Name = Annotated[str, typer.Argument(metavar="KB", help="Name of the KnowledgeBase.")]

_SECONDS = 60.0


@app.command()
def versions(knowledge_base: Name, data_dir: DataDir = None) -> None:
    """List the versions that are kept, newest first."""
    stack = Stack.load(folder(data_dir))
    table = Table("Version", "State", "Finished", "Documents", "Chunks", "Recall", box=None)
    for row in _history(stack, Kubectl(stack), knowledge_base):
        recall = (row.evaluation or {}).get("recall")
        finished = f"{row.finished_at:%Y-%m-%d %H:%M:%S}" if row.finished_at else ""
        told = (row.documents, row.chunks) if row.finished_at else ("", "")
        shown = "" if recall is None else f"{recall:.3f}"
        table.add_row(str(row.version), row.state.capitalize(), finished, *map(str, told), shown)
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


def _history(stack: Stack, kubectl: Kubectl, name: str) -> list[CorpusVersionRow]:
    uid = kubectl.get("kb", name)["metadata"]["uid"]
    engine = connect(stack.database_url("groundtune_reader_login", "groundtune_reader"))
    try:
        with engine.connect() as connection:
            return corpora.history(connection, uid)
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
