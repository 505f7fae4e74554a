"""Documents have attributes that searches can filter by; spaces know how they keep vectors."""

from __future__ import annotations

import hashlib
import json

from alembic import op
from sqlalchemy import text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE groundtune.documents ADD COLUMN attributes jsonb NOT NULL DEFAULT '{}'")
    op.execute(
        "CREATE INDEX documents_attributes ON groundtune.documents USING gin (attributes jsonb_path_ops)"
    )
    connection = op.get_bind()
    for space, recipe in connection.execute(text("SELECT id, recipe FROM groundtune.spaces")).all():
        written = json.dumps({**recipe, "storage": "vector"}, sort_keys=True)
        connection.execute(
            text(
                "UPDATE groundtune.spaces SET recipe = CAST(:recipe AS jsonb), recipe_hash = :hash WHERE id = :id"
            ),
            {"recipe": written, "hash": hashlib.sha256(written.encode()).hexdigest(), "id": space},
        )
