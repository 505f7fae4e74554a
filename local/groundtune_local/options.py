"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from groundtune_local.stack import default_data_dir

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir", help="Folder of the stack [default: $GROUNDTUNE_DATA or ~/.local/share/groundtune]."
    ),
]


def folder(data_dir: Path | None) -> Path:
    """The stack's folder."""
    return data_dir.resolve() if data_dir else default_data_dir()
