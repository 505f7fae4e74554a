"""The log of the local stack's Prefect server, as Prefect sets it up."""

from __future__ import annotations

import subprocess
import sys

from groundtune_local.prefect_logging import SETTINGS

_SERVER = """
import logging, sqlite3
from prefect.logging.configuration import setup_logging
setup_logging()
log = logging.getLogger("docket.dependencies")
for task, error in [
    ("mark_deployments_ready", sqlite3.OperationalError("database is locked")),
    ("mark_deployments_ready", sqlite3.OperationalError("no such table: deployment")),
    ("schedule_deployments", sqlite3.OperationalError("database is locked")),
]:
    try:
        raise error
    except sqlite3.Error:
        log.exception("[7 ms] %s()", task)
"""


def test_only_traces_of_locked_readiness_are_left_out() -> None:
    environment = {"PREFECT_LOGGING_SETTINGS_PATH": str(SETTINGS), "PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", _SERVER], env=environment, capture_output=True, text=True, check=True
    )
    heads = [line.split(" - ", 1)[1] for line in done.stderr.splitlines() if "ERROR" in line]
    assert heads == ["[7 ms] mark_deployments_ready()", "[7 ms] schedule_deployments()"]
    assert "no such table: deployment" in done.stderr
