"""`python -m groundtune_local.demo [--keep]`."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
from pathlib import Path

from rich.console import Console

from groundtune_local import lifecycle
from groundtune_local.demo.story import EXAMPLE, ROOT, Story
from groundtune_local.stack import StackError


def main() -> int:
    parser = argparse.ArgumentParser(prog="make demo")
    parser.add_argument(
        "--keep", action="store_true", help="leave the stack up at the end (make demo KEEP=1)"
    )
    parser.add_argument("--data-dir", type=Path, default=ROOT / ".groundtune")
    parser.add_argument(
        "--example", type=Path, default=EXAMPLE, help="resources, documents and examples to use"
    )
    arguments = parser.parse_args()
    data: Path = arguments.data_dir.resolve()
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if not arguments.example.is_dir():
            raise StackError(
                f"{arguments.example} is missing; run the demo from a checkout of the repository"
            )
        if lifecycle.running(data):
            raise StackError(
                f"a stack is running in {data}; end it with: .venv/bin/groundtune down --data-dir {data}"
            )
        shutil.rmtree(data, ignore_errors=True)  # the demo tells the story from its beginning
        Story(data, console, example=arguments.example, keep=arguments.keep).tell()
    except (StackError, OSError) as error:
        console.print(f"[red]Error:[/] {error}", soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 130
    return 0


sys.exit(main())
