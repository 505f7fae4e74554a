"""The command `groundtune`."""

from __future__ import annotations

import asyncio
import json
import shlex
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from groundtune.api import crd
from groundtune.errors import GroundtuneError
from groundtune.retrieval.search import Options
from groundtune_local import lifecycle, searching, versions
from groundtune_local.options import DataDir, folder
from groundtune_local.stack import Stack, StackError
from groundtune_local.supervisor import PartState

app = typer.Typer(
    name="groundtune",
    help="Keep language models grounded and tuned, declaratively.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(versions.app, name="kb")
console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False, soft_wrap=True)


@app.callback()
def _main(
    context: typer.Context,
    debug: Annotated[bool, typer.Option("--debug", help="Show the trace of an error.")] = False,
) -> None:
    context.obj = debug
    _Debug.on = debug


class _Debug:
    on = False


def print_part(name: str, part: PartState) -> None:
    """One line for a part that has come up or has failed; nothing for the steps between."""
    if part.state == "ready":
        console.print(f"  [green]✓[/] {part.title:<16} {part.seconds:5.1f} s  {part.message}")
    elif part.state == "restarting":
        errors.print(f"  [yellow]↻[/] {part.title:<16} {part.message}", markup=True)


@app.command()
def up(
    data_dir: DataDir = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return once everything is up.")] = False,
    context: Annotated[
        str | None, typer.Option(help="Kubernetes context to work with, instead of the local control plane.")
    ] = None,
    new_ports: Annotated[
        bool, typer.Option("--new-ports", help="Take other ports where one is taken.")
    ] = False,
) -> None:
    """Bring up the whole stack on this machine."""
    data = folder(data_dir)
    if detach and lifecycle.running(data):
        console.print(f"Groundtune is up already in {data}.")
        return
    stack = lifecycle.open_stack(data, context, new_ports=new_ports)
    console.print(f"Starting Groundtune in {data}")
    supervisor = lifecycle.launch(stack, tied=not detach)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        lifecycle.follow(data, supervisor, print_part)
        where = f" --data-dir {shlex.quote(str(data))}" if data_dir else ""
        console.print(f'Up. For kubectl and groundtune: eval "$(groundtune env{where})"')
        if not detach:
            console.print("Press Ctrl-C to stop.")
            supervisor.wait()
    except BaseException:
        lifecycle.shut_down(data)
        raise


@app.command()
def down(data_dir: DataDir = None) -> None:
    """Stop the stack. What it has learned stays in its folder."""
    data = folder(data_dir)
    console.print("Stopped." if lifecycle.shut_down(data) else f"Nothing runs in {data}.")


@app.command()
def status(data_dir: DataDir = None) -> None:
    """Show the stack's parts; exit code 1 unless all are ready."""
    data = folder(data_dir)
    Stack.load(data)
    now = lifecycle.observe(data)
    table = Table("Part", "State", "Start", "Restarts", "About", box=None)
    for part in now.parts.values():
        state = part.state if now.pid else "stopped"
        about = part.message if now.pid else ""
        table.add_row(part.title, state, f"{part.seconds:.1f} s", str(part.restarts), about)
    console.print(table)
    if not now.ready:
        raise typer.Exit(1)


@app.command()
def env(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="As one JSON object.")] = False,
) -> None:
    """Print where to reach the stack's parts."""
    stack = Stack.load(folder(data_dir))
    facts = {
        "kubeconfig": str(stack.kubeconfig),
        "databaseUrl": stack.database_url(),
        "prefectUrl": stack.prefect_url,
        "gatewayUrl": stack.serve_url,
        "rayDashboardUrl": stack.dashboard_url,
        "dataDirectory": str(stack.data),
    }
    if as_json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    variables = {
        "GROUNDTUNE_DATA": facts["dataDirectory"],
        "KUBECONFIG": facts["kubeconfig"],
        "PREFECT_API_URL": f"{stack.prefect_url}/api",
    }
    for key, value in variables.items():
        sys.stdout.write(f"export {key}={shlex.quote(value)}\n")


@app.command()
def crds(
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a file is not in step.")] = False,
    where: Annotated[Path, typer.Option("--folder", help="Where the files are.")] = Path("manifests/crds"),
) -> None:
    """Write the CustomResourceDefinitions from the resource types."""
    if not check:
        crd.write_files(where)
        return
    if stale := crd.stale_files(where):
        raise StackError(f"{', '.join(stale)} in {where} not in step with the types; run: groundtune crds")


@app.command()
def search(
    knowledge_base: Annotated[str, typer.Argument(metavar="KB", help="Name of the KnowledgeBase.")],
    query: Annotated[str | None, typer.Argument(help="The question.")] = None,
    input_file: Annotated[
        Path | None, typer.Option("--input", help="JSONL file of objects with `question`, instead of QUERY.")
    ] = None,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", help="JSONL file for each question's `results` [default: standard output]."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, max=100, help="Results [default: the spec's topK].")
    ] = None,
    filters: Annotated[
        list[str] | None,
        typer.Option(
            "--filter", metavar="KEY=VALUE", help="Only documents with this attribute; may be repeated."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a result.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Search the live version of a knowledge base, one question or a file of them."""
    if (query is None) == (input_file is None):
        raise typer.BadParameter("give a QUERY or --input FILE.jsonl, one of them")
    stack = Stack.load(folder(data_dir))
    questions = searching.read_questions(input_file) if input_file else [searching.Question(str(query), {})]
    options = Options(top_k, filter=searching.filter_of(filters or []))
    found = asyncio.run(searching.answer(stack, knowledge_base, questions, options))
    if input_file:
        lines = [
            json.dumps(question.record | {"results": [hit.as_json() for hit in hits]}, ensure_ascii=False)
            for question, hits in zip(questions, found, strict=True)
        ]
        text = "".join(f"{line}\n" for line in lines)
        if output_file:
            output_file.write_text(text, encoding="utf-8")
        else:
            sys.stdout.write(text)
    elif as_json:
        for hit in found[0]:
            sys.stdout.write(json.dumps(hit.as_json(), ensure_ascii=False) + "\n")
    else:
        for number, hit in enumerate(found[0], 1):
            console.print(
                f"[bold]{number}[/]  {hit.score:.4f}  {hit.source} [{hit.start}:{hit.end}]  version {hit.version}"
            )
            console.print(f"   {' '.join(hit.text.split())}", markup=False)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit codes: 0 done, 1 failed, 2 bad usage."""
    try:
        app(arguments)
    except (StackError, GroundtuneError, OSError) as error:
        if _Debug.on:
            traceback.print_exc()
        errors.print(f"Error: {error}", markup=False)
        sys.exit(1)
    except KeyboardInterrupt:
        errors.print("Stopped.")
        sys.exit(130)
