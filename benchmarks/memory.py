"""Peak memory of a first refresh, for a corpus of 10 MB and one of 100 MB. `make bench-memory`.

Each runs in a process of its own. Reading, cutting, tokenizing and loading are the refresh's own; vectors are drawn by
chance, as embedding so much would take an hour.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prefect.settings import PREFECT_API_URL

from benchmarks import corpus, stack
from benchmarks.report import report
from groundtune.embedding import Embedder
from groundtune.settings import settings

_MEGABYTES = (10, 100)
_DOCUMENT_BYTES = 50_000


class _Drawn(Embedder):
    """The model, but for what it computes."""

    def documents(self, texts: Sequence[str]) -> NDArray[np.float32]:
        drawn = np.random.default_rng(len(texts)).normal(size=(len(texts), self.dimensions))
        vectors: NDArray[np.float32] = (drawn / np.linalg.norm(drawn, axis=1, keepdims=True)).astype(
            np.float32
        )
        return vectors


def main() -> None:
    rows, figures = [], {}
    with stack.running() as platform:
        stack.knowledge_base(platform, _write(platform.volumes / "warm", 0.1)).refresh()
        for megabytes in _MEGABYTES:
            claim = _write(platform.volumes / f"docs-{megabytes}", megabytes)
            measured = _measured(claim)
            figures[f"peak_mib_{megabytes}_mb"] = measured["peak"]
            rows.append([f"{megabytes} MB", f"{measured['chunks']:,}", f"{measured['peak']:,.0f}"])
    small, large = (figures[f"peak_mib_{megabytes}_mb"] for megabytes in _MEGABYTES)
    title = "Peak memory of a first refresh's process"
    report("memory", title, ["corpus", "chunks", "MiB"], rows, figures, {"flat": small / large})


def _write(folder: Path, megabytes: float) -> str:
    """So much real text in documents of one size, no two alike; the claim's name."""
    whole = "\n\n".join(corpus.library_documents().values())
    folder.mkdir()
    for number in range(max(1, int(megabytes * 1_000_000 / _DOCUMENT_BYTES))):
        start = number * _DOCUMENT_BYTES % max(1, len(whole) - _DOCUMENT_BYTES)
        text = f"# Part {number}\n\n{whole[start + number % 97 : start + _DOCUMENT_BYTES]}"
        (folder / f"{number}.md").write_text(text, encoding="utf-8")
    return folder.name


def _measured(claim: str) -> dict[str, Any]:
    """Peak resident memory in MiB, and chunks, of a process that refreshes it."""
    environment = {
        **os.environ,
        "PREFECT_API_URL": PREFECT_API_URL.value() or "",
        "PREFECT_LOGGING_LEVEL": "WARNING",
    }
    command = [sys.executable, "-m", "benchmarks.memory", claim]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def _refresh(claim: str) -> None:
    from groundtune_flows import refreshing

    refreshing._embedder = cache(lambda spec: _Drawn(spec, settings().models))
    platform = stack.Platform(settings().volumes.parent, settings().database_url.get_secret_value())
    base = stack.knowledge_base(platform, claim)
    base.refresh()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak": peak, "chunks": base.last_run()["embeddedChunks"]}))


if __name__ == "__main__":
    if sys.argv[1:]:
        _refresh(sys.argv[1])
    else:
        main()
