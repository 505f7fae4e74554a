"""The registry's schema, its roles, and search over versions, on a real Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import numpy as np
import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from groundtune.api.knowledge_base import Retrieval
from groundtune.registry.corpora import recipe_hash
from groundtune.registry.database import connect, migrate
from groundtune.registry.spaces import create_tables, create_vector_index
from groundtune.registry.tables import SCHEMA, Base
from groundtune.registry.texts import index_texts
from groundtune.retrieval.corpus import Corpus, live_corpus, search_pool
from groundtune.retrieval.search import Hit, Query, search

_OLD_CHUNKS = """CREATE TABLE groundtune_corpora.chunks_1 (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    document_id bigint NOT NULL REFERENCES groundtune.documents ON DELETE CASCADE,
    ordinal integer NOT NULL, start_offset integer NOT NULL, end_offset integer NOT NULL, tokens integer NOT NULL,
    heading text NOT NULL, text text NOT NULL, embedding vector(3) NOT NULL,
    search tsvector GENERATED ALWAYS AS (to_tsvector('english', heading || ' ' || text)) STORED,
    valid_from integer NOT NULL, valid_to integer)"""
_TEXTS = ["The Studio plan costs 34 euros.", "A violet ring means pairing.", "Error TB-17 is a full disk."]


@pytest.fixture
def fresh(postgres_url: str) -> Iterator[str]:
    """A database of its own in the shared server."""
    name = f"registry_{uuid4().hex[:8]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    yield psycopg.conninfo.make_conninfo(postgres_url, dbname=name)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _url(conninfo: str) -> str:
    parts = psycopg.conninfo.conninfo_to_dict(conninfo)
    host = str(parts.get("host", ""))
    return f"postgresql://{parts.get('user', 'postgres')}@/{parts['dbname']}?host={host}&port={parts.get('port', 5432)}"


def test_the_migrations_make_the_tables_that_the_code_has(fresh: str) -> None:
    migrate(_url(fresh))
    engine = connect(_url(fresh))
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_schemas": True,
                "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
                "version_table_schema": SCHEMA,
                "compare_type": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()


def test_a_corpus_of_before_is_searched_by_its_words_after_migrating(fresh: str) -> None:
    migrate(_url(fresh), "0001")
    with psycopg.connect(fresh, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO groundtune.knowledge_bases (uid, namespace, name, live_version) VALUES ('u', 'd', 'kb', 1)"
        )
        connection.execute(
            "INSERT INTO groundtune.spaces (id, kb_uid, recipe_hash, recipe, dimensions) "
            """VALUES (1, 'u', 'h', '{"embedding": {}}', 3)"""
        )
        connection.execute(_OLD_CHUNKS)
        for axis, content in enumerate(_TEXTS):
            _add(connection, axis, content, 1, None)
    migrate(_url(fresh))
    with psycopg.connect(fresh) as connection:
        assert connection.execute("SELECT recipe_hash, texts FROM groundtune.spaces").fetchone() == (
            recipe_hash({"embedding": {}, "language": "english", "storage": "vector"}),
            3,
        )
        found = connection.execute(
            "SELECT count(*) FROM groundtune_corpora.texts_1 WHERE search @@ to_tsquery('english', 'disks')"
        ).fetchone()
        assert found == (1,)


def test_many_at_once_migrate_safely_and_once(fresh: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(migrate, [_url(fresh)] * 4))
    with psycopg.connect(fresh) as connection:
        assert connection.execute("SELECT count(*) FROM groundtune.alembic_version").fetchone() == (1,)


@pytest.fixture
def corpus(fresh: str) -> str:
    """Version 1 has all texts, version 2 another price; version 1 is live."""
    migrate(_url(fresh))
    with psycopg.connect(fresh, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO groundtune.knowledge_bases (uid, namespace, name, live_version) VALUES ('u', 'd', 'kb', 1)"
        )
        connection.execute(
            "INSERT INTO groundtune.spaces (id, kb_uid, recipe_hash, recipe, dimensions) "
            """VALUES (1, 'u', 'h', '{"language": "english", "embedding": {}}', 3)"""
        )
        for version, state in ((1, "live"), (2, "building")):
            connection.execute(
                "INSERT INTO groundtune.corpus_versions (kb_uid, version, space_id, state, run_id) "
                "VALUES ('u', %s, 1, %s, %s)",
                (version, state, uuid4()),
            )
        for statement in (*create_tables(1, 3), create_vector_index(1, 3, "vector", 16, 64)):
            connection.execute(statement)
        _add(connection, 0, _TEXTS[0], 1, 2)
        _add(connection, 0, _TEXTS[0].replace("34", "39"), 2, None)
        _add(connection, 1, _TEXTS[1], 1, None)
        _add(connection, 2, _TEXTS[2], 1, None)
    engine = connect(_url(fresh))
    with engine.begin() as session:
        index_texts(session, 1)
    engine.dispose()
    return fresh


def _add(connection: psycopg.Connection, axis: int, text: str, valid_from: int, valid_to: int | None) -> None:
    row = connection.execute(
        "INSERT INTO groundtune.documents (space_id, uri, content_hash, text, chunks, tokens, valid_from, valid_to) "
        "VALUES (1, %s, %s, %s, 1, 5, %s, %s) RETURNING id",
        (f"volume://docs/{axis}.md", text, text, valid_from, valid_to),
    ).fetchone()
    assert row is not None
    vector = np.eye(3)[axis].tolist()
    connection.execute(
        "INSERT INTO groundtune_corpora.chunks_1 "
        "(document_id, ordinal, start_offset, end_offset, tokens, heading, text, embedding, valid_from, valid_to) "
        "VALUES (%s, 0, 0, %s, 5, '', %s, %s::vector, %s, %s)",
        (row[0], len(text), text, str(vector), valid_from, valid_to),
    )


async def _search(
    conninfo: str, question: str, axis: int, mode: str, version: int | None = None
) -> list[Hit]:
    async with search_pool(conninfo, size=1) as pool, pool.connection() as connection:
        live = await live_corpus(connection, "u")
        assert live is not None
        assert live[0] == Corpus(1, 1, 3)
        corpus = Corpus(1, version or live[0].version, 3)
        query = Query(corpus, question, Retrieval.model_validate({"mode": mode}))
        return await search(connection, query, np.eye(3, dtype=np.float32)[axis])


async def test_a_search_reads_one_version_only(corpus: str) -> None:
    for version, price in ((1, "34"), (2, "39")):
        hits = await _search(corpus, "What does the Studio plan cost?", 0, "hybrid", version)
        assert hits[0].text == f"The Studio plan costs {price} euros."
        assert [hit.version for hit in hits] == [version] * len(hits)
        assert sum("Studio" in hit.text for hit in hits) == 1


async def test_each_mode_finds_what_it_can(corpus: str) -> None:
    assert (await _search(corpus, "zzz", 1, "vector"))[0].text == _TEXTS[1]
    assert [hit.text for hit in await _search(corpus, "what is TB-17?", 1, "lexical")] == [_TEXTS[2]]
    both = await _search(corpus, "what is TB-17?", 1, "hybrid")
    assert {both[0].text, both[1].text} == {_TEXTS[1], _TEXTS[2]}


async def test_a_span_is_the_text(corpus: str) -> None:
    hit = (await _search(corpus, "Studio plan", 0, "hybrid"))[0]
    assert (hit.source, hit.start, hit.end) == ("volume://docs/0.md", 0, len(hit.text))


def test_roles_can_do_their_work_and_no_more(corpus: str) -> None:
    with psycopg.connect(corpus, autocommit=True) as connection:
        connection.execute("SET ROLE groundtune_reader")
        assert connection.execute("SELECT count(*) FROM groundtune_corpora.chunks_1").fetchone() == (4,)
        for forbidden in (
            "UPDATE groundtune.knowledge_bases SET live_version = 9",
            "DELETE FROM groundtune.documents",
            "INSERT INTO groundtune.runs (id) VALUES (gen_random_uuid())",
            "DROP TABLE groundtune_corpora.chunks_1",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(forbidden)
        connection.execute("SET ROLE groundtune_writer")
        connection.execute("UPDATE groundtune.knowledge_bases SET live_version = 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DROP TABLE groundtune.runs")
