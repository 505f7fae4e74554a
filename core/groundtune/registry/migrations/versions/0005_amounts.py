"""Runs know what they have cost."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE groundtune.runs ADD COLUMN amount double precision NOT NULL DEFAULT 0, "
        "ADD COLUMN currency text NOT NULL DEFAULT ''"
    )
