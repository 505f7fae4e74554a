"""A space's tables: one recipe (embedding model, chunking, storage, language), all versions, visible by interval.

`chunks_N` holds the passages and their vectors. `texts_N` holds their words for full-text search, apart from them, so
that a bulk load is a plain COPY and the words are worked out once, after it. `terms_N` counts in how many passages a
word stands: what makes rare words weigh more than common ones.
"""

from __future__ import annotations

from groundtune.api.knowledge_base import Storage

CORPORA_SCHEMA = "groundtune_corpora"
#: Dimensions that pgvector's HNSW index takes.
MOST_DIMENSIONS: dict[Storage, int] = {"vector": 2000, "halfvec": 4000, "bit": 16000}
#: Bytes of a row up to which nothing of it is compressed or put elsewhere; the most that Postgres takes.
_INLINE = 8160


def chunk_table(space_id: int) -> str:
    """Qualified name of the space's chunk table; safe to put into SQL, as it is made of a number."""
    return f"{CORPORA_SCHEMA}.chunks_{space_id:d}"


def text_table(space_id: int) -> str:
    """Qualified name of the table of its chunks' words."""
    return f"{CORPORA_SCHEMA}.texts_{space_id:d}"


def term_table(space_id: int) -> str:
    """Qualified name of the table that counts words."""
    return f"{CORPORA_SCHEMA}.terms_{space_id:d}"


def distance(dimensions: int, storage: Storage, column: str, value: str, *, indexed: bool = False) -> str:
    """SQL of the cosine distance of a stored and a given vector.

    Args:
        indexed: the one that the index goes by, if that is another: of bits it is the number that differ.
    """
    if storage == "halfvec":
        return f"{column} <=> CAST({value} AS halfvec({dimensions:d}))"
    if storage == "bit" and indexed:
        return f"{_bits(column, dimensions)} <~> binary_quantize({value})"
    return f"{column} <=> {value}"


def _bits(column: str, dimensions: int) -> str:
    return f"CAST(binary_quantize({column}) AS bit({dimensions:d}))"


def _inline_vectors(space_id: int, dimensions: int, storage: Storage) -> list[str]:
    """Vectors that fit into a page stay in their row: fetching them apart costs more than it saves."""
    if (2 if storage == "halfvec" else 4) * dimensions > _INLINE - 2000:
        return []
    return [f"ALTER TABLE {chunk_table(space_id)} ALTER COLUMN embedding SET STORAGE PLAIN"]


def create_tables(space_id: int, dimensions: int, storage: Storage = "vector") -> list[str]:
    """Statements that make the space's tables."""
    chunks = chunk_table(space_id)
    column = "halfvec" if storage == "halfvec" else "vector"
    return [
        f"""CREATE TABLE {chunks} (
            id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
            document_id bigint NOT NULL REFERENCES groundtune.documents ON DELETE CASCADE,
            ordinal integer NOT NULL,
            start_offset integer NOT NULL,
            end_offset integer NOT NULL,
            tokens integer NOT NULL,
            heading text NOT NULL,
            text text NOT NULL,
            embedding {column}({dimensions:d}) NOT NULL,
            valid_from integer NOT NULL,
            valid_to integer,
            page integer
        ) WITH (toast_tuple_target = {_INLINE})""",
        *_inline_vectors(space_id, dimensions, storage),
        f"CREATE INDEX chunks_{space_id:d}_document ON {chunks} (document_id)",
        f"""CREATE TABLE {text_table(space_id)} (
            chunk_id bigint PRIMARY KEY REFERENCES {chunk_table(space_id)} ON DELETE CASCADE,
            search tsvector NOT NULL
        )""",
        f"""CREATE TABLE {term_table(space_id)} (
            lexeme text PRIMARY KEY,
            chunks integer NOT NULL
        ) WITH (fillfactor = 70)""",
        f"GRANT SELECT ON {chunks}, {text_table(space_id)}, {term_table(space_id)} TO groundtune_reader",
    ]


def drop_tables(space_id: int) -> list[str]:
    """Statements that remove them."""
    return [f"DROP TABLE IF EXISTS {name(space_id)}" for name in (term_table, text_table, chunk_table)]


def create_vector_index(
    space_id: int, dimensions: int, storage: Storage, m: int, ef_construction: int
) -> str:
    """Statement that builds the HNSW index; run it after a first bulk load, as that is several times faster."""
    by = {
        "vector": "embedding vector_cosine_ops",
        "halfvec": "embedding halfvec_cosine_ops",
        "bit": f"({_bits('embedding', dimensions)}) bit_hamming_ops",
    }[storage]
    return (
        f"CREATE INDEX IF NOT EXISTS chunks_{space_id:d}_embedding ON {chunk_table(space_id)} "
        f"USING hnsw ({by}) WITH (m = {m:d}, ef_construction = {ef_construction:d})"
    )


def create_text_index(space_id: int) -> str:
    """Statement that builds the index over the words, after a first bulk load too."""
    return (
        f"CREATE INDEX IF NOT EXISTS texts_{space_id:d}_search ON {text_table(space_id)} USING gin (search)"
    )
