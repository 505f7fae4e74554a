"""The words of a space's chunks, kept in step with them. All of it works on the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, text

from groundtune.registry.spaces import chunk_table, create_text_index, term_table, text_table


def index_texts(connection: Connection, space_id: int) -> None:
    """Take in the chunks that were stored since the last time."""
    last = connection.execute(
        text(f"SELECT coalesce(max(chunk_id), 0) FROM {text_table(space_id)}")
    ).scalar_one()
    came = connection.execute(
        text(
            f"INSERT INTO {text_table(space_id)} (chunk_id, search) "
            "SELECT c.id, to_tsvector(CAST(s.recipe ->> 'language' AS regconfig), c.heading || ' ' || c.text) "
            f"FROM {chunk_table(space_id)} c, groundtune.spaces s WHERE s.id = :space AND c.id > :last ORDER BY c.id"
        ),
        {"space": space_id, "last": last},
    ).rowcount
    if came:
        _count(connection, space_id, f"chunk_id > {last:d}", +1)
    connection.execute(text(create_text_index(space_id)))


def forget_texts(connection: Connection, space_id: int, documents: str, values: dict[str, Any]) -> None:
    """Take the documents' chunks out of the counts; call it right before they are deleted.

    Args:
        documents: SQL that gives the documents' ids.
        values: what it is bound to.
    """
    ids = connection.execute(
        text(
            f"SELECT t.chunk_id FROM {text_table(space_id)} t JOIN {chunk_table(space_id)} c ON c.id = t.chunk_id "
            f"WHERE c.document_id IN ({documents})"
        ),
        values,
    ).scalars()
    listed = ",".join(map(str, ids))
    if listed:
        _count(connection, space_id, f"chunk_id IN ({listed})", -1)


def _count(connection: Connection, space_id: int, which: str, sign: int) -> None:
    """Add the texts that `which` selects to the counts, or take them off."""
    texts = f"FROM {text_table(space_id)} WHERE {which}"
    connection.execute(
        text(
            f"INSERT INTO {term_table(space_id)} AS t (lexeme, chunks) "
            "SELECT word, :sign * ndoc FROM ts_stat(:texts) ORDER BY word "
            "ON CONFLICT (lexeme) DO UPDATE SET chunks = t.chunks + excluded.chunks"
        ),
        {"sign": sign, "texts": f"SELECT search {texts}"},
    )
    connection.execute(
        text(
            "UPDATE groundtune.spaces s "
            "SET texts = s.texts + :sign * came.texts, lexemes = s.lexemes + :sign * came.lexemes "
            f"FROM (SELECT count(*) AS texts, coalesce(sum(length(search)), 0) AS lexemes {texts}) came "
            "WHERE s.id = :space"
        ),
        {"sign": sign, "space": space_id},
    )
