"""Real documents that every machine has: what Python's standard library says of itself, and more where it is given.

`GROUNDTUNE_DATASETS` names a folder with `chunking-eval` (three corpora and questions with the spans that answer
them, from brandonstarxel/chunking_evaluation).
"""

from __future__ import annotations

import ast
import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_LEAST = 500


@dataclass(frozen=True)
class Question:
    """A question, and the spans (start, end) of the document `source` that answer it."""

    text: str
    source: str
    spans: tuple[tuple[int, int], ...]


def datasets() -> Path | None:
    """The folder of further data, if there is one."""
    folder = Path(os.environ.get("GROUNDTUNE_DATASETS", ROOT.parent / "shared" / "datasets"))
    return folder if folder.is_dir() else None


def evaluation_documents() -> dict[str, str]:
    """The corpora of `chunking-eval` by file name; none where the data is not there."""
    folder = datasets()
    if folder is None:
        return {}
    return {
        path.name: path.read_text(encoding="utf-8")
        for path in sorted((folder / "chunking-eval").glob("*.md"))
    }


def evaluation_questions() -> list[Question]:
    """The questions about them."""
    folder = datasets()
    if folder is None:
        return []
    lines = (folder / "chunking-eval" / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        Question(
            record["question"],
            f"{record['corpus']}.md",
            tuple((span["start"], span["end"]) for span in record["references"]),
        )
        for record in map(json.loads, lines)
    ]


def library_documents() -> dict[str, str]:
    """A Markdown document for each module of the standard library that documents itself at some length."""
    library = Path(sysconfig.get_paths()["stdlib"])
    documents = {}
    for path in sorted(library.rglob("*.py")):
        inside = path.relative_to(library)
        if inside.parts[0] == "site-packages" or any(part.startswith("test") for part in inside.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        name = ".".join(inside.with_suffix("").parts)
        text = "\n\n".join(_sections(tree, name, 1))
        if len(text) >= _LEAST:
            documents[f"{name}.md"] = text
    return documents


def _sections(node: ast.AST, name: str, level: int) -> Iterator[str]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        said = ast.get_docstring(node)
        if said:
            yield f"{'#' * level} {name}\n\n{said}"
            level = min(level + 1, 6)
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _sections(child, child.name, level)


def pieces(documents: dict[str, str], characters: int = 1500) -> dict[str, str]:
    """Smaller documents, cut between paragraphs, each of about so many characters."""
    cut = {}
    for name, text in documents.items():
        paragraphs, number = [""], 0
        for paragraph in [*text.split("\n\n"), None]:
            if paragraph is None or len(paragraphs[-1]) > characters:
                cut[f"{name.removesuffix('.md')}-{number}.md"] = paragraphs.pop()
                paragraphs, number = [""], number + 1
            if paragraph is not None:
                paragraphs[-1] += f"{paragraph}\n\n"
    return cut


def write(documents: dict[str, str], folder: Path) -> None:
    """The documents as files, made anew."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in documents.items():
        (folder / name).write_text(text, encoding="utf-8")
