"""Words apart from chunks, and counted; spaces know their language."""

from __future__ import annotations

import hashlib
import json

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"

_TABLES = """
CREATE TABLE {schema}.texts_{id} (
    chunk_id bigint PRIMARY KEY REFERENCES {schema}.chunks_{id} ON DELETE CASCADE,
    search tsvector NOT NULL
);
CREATE TABLE {schema}.terms_{id} (lexeme text PRIMARY KEY, chunks integer NOT NULL) WITH (fillfactor = 70);
INSERT INTO {schema}.texts_{id} SELECT id, search FROM {schema}.chunks_{id};
INSERT INTO {schema}.terms_{id} SELECT word, ndoc FROM ts_stat('SELECT search FROM {schema}.texts_{id}');
UPDATE groundtune.spaces SET (texts, lexemes) =
    (SELECT count(*), coalesce(sum(length(search)), 0) FROM {schema}.texts_{id}) WHERE id = {id};
CREATE INDEX texts_{id}_search ON {schema}.texts_{id} USING gin (search);
ALTER TABLE {schema}.chunks_{id} DROP COLUMN search;
ALTER TABLE {schema}.texts_{id} OWNER TO {owner};
ALTER TABLE {schema}.terms_{id} OWNER TO {owner};
GRANT SELECT ON {schema}.texts_{id}, {schema}.terms_{id} TO groundtune_reader;
"""


def upgrade() -> None:
    op.execute(
        "ALTER TABLE groundtune.spaces "
        "ADD COLUMN texts bigint NOT NULL DEFAULT 0, ADD COLUMN lexemes bigint NOT NULL DEFAULT 0"
    )
    connection = op.get_bind()
    rows = connection.execute(
        text(
            "SELECT s.id, s.recipe, quote_ident(t.tableowner) FROM groundtune.spaces s JOIN pg_tables t "
            "ON t.schemaname = 'groundtune_corpora' AND t.tablename = 'chunks_' || s.id"
        )
    ).all()
    for space, recipe, owner in rows:
        recipe["language"] = "english"
        written = json.dumps(recipe, sort_keys=True)
        connection.execute(
            text(
                "UPDATE groundtune.spaces SET recipe = CAST(:recipe AS jsonb), recipe_hash = :hash WHERE id = :id"
            ),
            {"recipe": written, "hash": hashlib.sha256(written.encode()).hexdigest(), "id": space},
        )
        op.execute(_TABLES.format(schema="groundtune_corpora", id=space, owner=owner))
