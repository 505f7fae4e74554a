"""The demo, told once, on a smaller copy of its example; its stack stays up for what follows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from groundtune_local import lifecycle

DEMO = [sys.executable, "-m", "groundtune_local.demo"]
EXAMPLE = Path(__file__).parents[2] / "manifests" / "examples" / "support-bot"
#: How many lines of each file the smaller copy keeps, evenly spread: enough to learn the format from.
_LINES = {
    "style/train/chats.jsonl": 64,
    "style/holdout.jsonl": 8,
    "questions.jsonl": 3,
}


@dataclass(frozen=True)
class Told:
    """A demo that came to its end: its folder, and what it printed."""

    data: Path
    output: str


@pytest.fixture(scope="session")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    data = tmp_path_factory.mktemp("demo")
    example = tmp_path_factory.mktemp("example") / "support-bot"
    shutil.copytree(EXAMPLE, example)
    for name, count in _LINES.items():
        lines = (example / name).read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [lines[index * len(lines) // count] for index in range(count)]
        (example / name).write_text("".join(kept), encoding="utf-8")
    command = [*DEMO, "--keep", "--data-dir", str(data), "--example", str(example)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, check=False)
    try:
        assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
        yield Told(data, done.stdout)
    finally:
        lifecycle.shut_down(data)
