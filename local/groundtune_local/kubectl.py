"""kubectl against the stack: the one on the PATH, or the one that a package brings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from groundtune_local.stack import Stack, StackError


class Kubectl:
    """Runs kubectl with the stack's kubeconfig."""

    def __init__(self, stack: Stack) -> None:
        beside = Path(sys.executable).parent / "kubectl"
        found = shutil.which("kubectl") or (str(beside) if beside.is_file() else None)
        if found is None:
            raise StackError("kubectl is not installed; run: make setup")
        self._command = [found] if stack.context is None else [found, "--context", stack.context]
        self._environment = os.environ | ({} if stack.context else {"KUBECONFIG": str(stack.kubeconfig)})

    def run(self, *arguments: str, stdin: str = "") -> str:
        """Its output.

        Raises:
            StackError: it failed; with what it said.
        """
        done = subprocess.run(
            [*self._command, *arguments],
            env=self._environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise StackError(f"kubectl {arguments[0]}: {done.stderr.strip()}")
        return done.stdout

    def watch(self, *resource: str) -> subprocess.Popen[str]:
        """`kubectl get --watch` of one resource: its JSON documents, one after another, on standard output."""
        return subprocess.Popen(
            [*self._command, "get", *resource, "--watch", "--output", "json"],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        loaded: dict[str, Any] = json.loads(self.run("get", kind, name, "--output", "json"))
        return loaded
