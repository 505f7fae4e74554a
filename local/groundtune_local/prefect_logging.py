"""What the local stack's Prefect server need not write into its log."""

from __future__ import annotations

import logging
from pathlib import Path

SETTINGS = Path(__file__).with_suffix(".yml")


class WithoutLockedReadiness(logging.Filter):
    """Drops the traces of readiness that SQLite refused to note.

    At every poll of a worker the server notes, at the same time, that its queues and that its deployments are
    ready, and with SQLite one of the two mostly loses: https://github.com/PrefectHQ/prefect/issues/23051. The
    next poll notes it again. What is dropped is a hundred lines each time, a few hundred megabytes a day.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        return not ("mark_deployments_ready" in record.getMessage() and "database is locked" in str(error))
