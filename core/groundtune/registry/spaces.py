"""A space's chunk table: one embedding model and chunking, all versions, visible by interval."""

from __future__ import annotations

CORPORA_SCHEMA = "groundtune_corpora"


def chunk_table(space_id: int) -> str:
    """Qualified name of the space's chunk table; safe to put into SQL, as it is made of a number."""
    return f"{CORPORA_SCHEMA}.chunks_{space_id:d}"


def create_chunk_table(space_id: int, dimensions: int) -> list[str]:
    """Statements that make the table. `search` is its full-text column, kept by Postgres."""
    table = chunk_table(space_id)
    return [
        f"""CREATE TABLE IF NOT EXISTS {table} (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            document_id bigint NOT NULL REFERENCES groundtune.documents ON DELETE CASCADE,
            ordinal integer NOT NULL,
            start_offset integer NOT NULL,
            end_offset integer NOT NULL,
            tokens integer NOT NULL,
            heading text NOT NULL,
            text text NOT NULL,
            embedding vector({dimensions:d}) NOT NULL,
            search tsvector GENERATED ALWAYS AS (to_tsvector('english', heading || ' ' || text)) STORED,
            valid_from integer NOT NULL,
            valid_to integer
        )""",
        f"CREATE INDEX IF NOT EXISTS chunks_{space_id:d}_document ON {table} (document_id)",
        f"CREATE INDEX IF NOT EXISTS chunks_{space_id:d}_search ON {table} USING gin (search)",
        f"GRANT SELECT ON {table} TO groundtune_reader",
    ]


def create_vector_index(space_id: int, m: int, ef_construction: int) -> str:
    """Statement that builds the HNSW index; run it after a first bulk load, as that is several times faster."""
    return (
        f"CREATE INDEX IF NOT EXISTS chunks_{space_id:d}_embedding ON {chunk_table(space_id)} "
        f"USING hnsw (embedding vector_cosine_ops) WITH (m = {m:d}, ef_construction = {ef_construction:d})"
    )
