"""Every command of the quick start, run as it stands there, on documents of one's own, after the demo."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from demo_told import Told

from groundtune_local import processes

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.timeout(900)


def test_the_quick_start_holds(told: Told) -> None:
    data = told.data
    blocks = BLOCK.findall((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"))
    manifest = next(text for language, text in blocks if language == "yaml")
    commands = [line for language, text in blocks if not language for line in text.splitlines()]
    commands = [line.replace(".venv/bin/", f"{Path(sys.executable).parent}/") for line in commands]
    assert [line for line in commands if line.startswith("make demo")] == ["make demo", "make demo KEEP=1"]
    environment = os.environ | {
        "GROUNDTUNE_DATA": str(data),
        "KUBECONFIG": str(data / "kubeconfig"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(command: str, stdin: str = "") -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            input=stdin,
            env=environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return done.stdout

    folder = data / "volumes" / "handbook"
    folder.mkdir(parents=True)
    (folder / "leave.md").write_text("# Leave\n\nEveryone has 31 days of leave a year.\n", encoding="utf-8")
    up, wait, search, annotate, down = (line for line in commands if not line.startswith("make demo"))
    run(up)
    run("kubectl apply --filename -", manifest)
    run(wait)
    assert "31 days" in run(search)
    run(annotate)
    assert "Stopped" in run(down)
    assert list(processes.marked(data)) == []
