"""Documents know their source and what it says of their content; passages know their page."""

from __future__ import annotations

from alembic import op
from sqlalchemy import text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.execute(
        "ALTER TABLE groundtune.documents "
        "ADD COLUMN fingerprint text, ADD COLUMN source text NOT NULL DEFAULT ''"
    )
    spaces = op.get_bind().execute(text("SELECT id FROM groundtune.spaces")).scalars().all()
    for space in spaces:
        op.execute(f"ALTER TABLE groundtune_corpora.chunks_{space:d} ADD COLUMN page integer")
