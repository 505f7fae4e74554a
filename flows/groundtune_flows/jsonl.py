"""What is wrong with a line of JSONL, in words for whoever wrote it."""

from __future__ import annotations

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """The first thing that a model found wrong, with the path to it: `relevant[0].source: Field required`."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return "is not JSON"
    path = ""
    for part in first["loc"]:
        path += f"[{part}]" if isinstance(part, int) else f"{'.' if path else ''}{part}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{path}: {message}" if path else message
