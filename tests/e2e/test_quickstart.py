"""Every command of the quick start, run as it stands there, on documents of one's own, after the demo."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from demo_told import Told

from groundtune_local import processes
from groundtune_local.kubectl import Kubectl
from groundtune_local.stack import Stack

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.timeout(900)


def test_the_quick_start_holds(told: Told) -> None:
    Kubectl(Stack.load(told.data)).run(
        "delete", "infd", "support-bot", "--timeout=120s"
    )  # its cores are needed
    found = BLOCK.findall((ROOT / "docs" / "quickstart.md").read_text(encoding="utf-8"))
    blocks = [text for language, text in found if not language]
    assert blocks[:2] == ["make demo\n", "make demo KEEP=1\n"]
    # One shell for all of them, as exports have to last; a line between tells whose output is whose.
    script = "echo; echo =====\n".join(["set -e\n", *blocks[2:]])
    done = subprocess.run(
        ["bash", "-c", script],
        env=os.environ | {"GROUNDTUNE_DATA": str(told.data)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    up, _, _, search, asked, _, down = done.stdout.split("=====\n")[1:]
    assert "up" in up
    assert "34 euros" in search
    answer = json.loads(asked.strip().splitlines()[-1])
    assert "34" in answer["choices"][0]["message"]["content"]
    assert answer["groundtune"]["citations"][0]["text"].startswith("The Studio plan costs 34")
    assert "Stopped" in down
    assert list(processes.marked(told.data)) == []
