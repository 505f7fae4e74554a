"""What the demo shows."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from groundtune_local.demo.ask import Answer

WAYS = ("base", "retrieval", "tuned", "both")


def print_answers(console: Console, question: str, fact: str, answers: dict[str, Answer]) -> None:
    """One question, its answers below each other, and what each took."""
    table = Table(
        title=f"“{question}”", title_justify="left", title_style="bold", expand=True, show_lines=True
    )
    table.add_column("", no_wrap=True)
    table.add_column("answer", ratio=3, overflow="fold")
    table.add_column("what it took", ratio=2, overflow="fold", style="dim")
    for way, answer in answers.items():
        table.add_row(way, _marked(answer.text + " …" * answer.cut, fact), _about(answer))
    console.print(table)


def print_evaluation(console: Console, found: dict[str, Any]) -> None:
    """Held-out results of an adapter, of the base model and of the adapter that it replaces."""
    measured = {
        "base": found["base"],
        "promoted": found.get("promoted"),
        f"v{found['version']}": found["candidate"],
    }
    measured = {name: values for name, values in measured.items() if values}
    table = Table(title=f"On {found['examples']} held-out examples", title_justify="left", title_style="bold")
    table.add_column("")
    for name in measured:
        table.add_column(name, justify="right")
    for metric in found["candidate"]:
        table.add_row(metric, *(f"{values[metric]:.3g}" for values in measured.values()))
    console.print(table)


def print_summary(console: Console, facts: dict[str, int], formats: dict[str, int], questions: int) -> None:
    """How often each way had the fact, and the format."""
    table = Table(title="Of the questions above", title_justify="left", title_style="bold")
    table.add_column("")
    for way in WAYS:
        table.add_column(way, justify="right")
    table.add_row("has the fact", *(f"{facts[way]} of {questions}" for way in WAYS))
    table.add_row("has the taught format", *(f"{formats[way]} of {questions}" for way in WAYS))
    console.print(table)


def _marked(text: str, fact: str) -> str:
    escaped = text.replace("[", r"\[")
    return escaped.replace(fact, f"[bold green]{fact}[/]")


def _about(answer: Answer) -> str:
    sources = dict.fromkeys(entry["source"].rsplit("/", 1)[-1] for entry in answer.citations)
    lines = [f"first token {answer.first_token_ms:.0f} ms"]
    if answer.context_tokens:
        lines.append(f"{answer.context_tokens} context tokens from {', '.join(sources)}")
    if answer.adapter != "none":
        lines.append(f"adapter {answer.adapter}")
    return "\n".join(lines)
