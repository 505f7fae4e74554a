"""What a corpus version holds: documents and their chunks, written by COPY, closed, looked up, compared.

All of it works on the caller's transaction. Earlier versions keep seeing what they saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pgvector import HalfVector
from pgvector.psycopg import register_vector
from psycopg import Connection as RawConnection
from psycopg.types.json import Jsonb
from sqlalchemy import Connection, text

from groundtune.registry.spaces import chunk_table
from groundtune.registry.texts import forget_texts

#: SQL: whether a row is visible in the version that is bound.
VISIBLE = "valid_from <= :version AND (valid_to IS NULL OR valid_to > :version)"


@dataclass(frozen=True)
class NewChunk:
    """A chunk to store; `vector` has the space's dimensions and unit length."""

    start: int
    end: int
    tokens: int
    heading: str
    text: str
    vector: NDArray[np.float32]
    page: int | None = None


@dataclass(frozen=True)
class NewDocument:
    """A document to store, in place of the visible one with the same URI.

    Args:
        fingerprint: what the source says of its content without being read, if it does.
        source: key of the source that it came from.
        attributes: what searches can filter by.
    """

    uri: str
    content_hash: str
    text: str
    chunks: Sequence[NewChunk]
    fingerprint: str | None = None
    source: str = ""
    attributes: Mapping[str, bool | float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class StoredDocument:
    """What is known of a document that a version holds."""

    content_hash: str
    fingerprint: str | None
    source: str


@dataclass(frozen=True)
class Seen:
    """A document whose content is what is stored, though its fingerprint or its source is another one now."""

    uri: str
    fingerprint: str | None
    source: str


@dataclass(frozen=True)
class Changes:
    """Of a version against the one before it in its space, in documents."""

    added: int
    updated: int
    removed: int


def visible_documents(
    connection: Connection, space_id: int, version: int, uris: Sequence[str]
) -> dict[str, StoredDocument]:
    """By URI, those of the documents that the version holds."""
    rows = connection.execute(
        text(
            "SELECT uri, content_hash, fingerprint, source FROM groundtune.documents "
            f"WHERE space_id = :space AND uri = ANY(:uris) AND {VISIBLE}"
        ),
        {"space": space_id, "uris": list(uris), "version": version},
    )
    return {row.uri: StoredDocument(row.content_hash, row.fingerprint, row.source) for row in rows}


def note_seen(connection: Connection, space_id: int, version: int, seen: Sequence[Seen]) -> None:
    """Keep what was learned of unchanged documents. No search sees it, so it needs no version of its own."""
    connection.execute(
        text(
            "UPDATE groundtune.documents d SET fingerprint = s.fingerprint, source = s.source "
            "FROM unnest(CAST(:uris AS text[]), CAST(:fingerprints AS text[]), CAST(:sources AS text[])) "
            "AS s (uri, fingerprint, source) "
            f"WHERE d.space_id = :space AND d.uri = s.uri AND {VISIBLE}"
        ),
        {
            "space": space_id,
            "version": version,
            "uris": [each.uri for each in seen],
            "fingerprints": [each.fingerprint for each in seen],
            "sources": [each.source for each in seen],
        },
    )


def some_passages(
    connection: Connection, space_id: int, version: int, most: int
) -> list[tuple[str, str, str]]:
    """URI, heading and text of passages of the version, drawn as if by chance, always the same ones."""
    rows = connection.execute(
        text(
            f"SELECT d.uri, c.heading, c.text FROM (SELECT * FROM {chunk_table(space_id)} WHERE {VISIBLE} "
            "ORDER BY hashint8(id), id LIMIT :most) c JOIN groundtune.documents d ON d.id = c.document_id "
            "ORDER BY hashint8(c.id), c.id"
        ),
        {"version": version, "most": most},
    )
    return [(row.uri, row.heading, row.text) for row in rows]


def known_vectors(
    connection: Connection, space_id: int, documents: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Vectors by (heading, text) of the chunks of what these (URI, content hash) were before.

    They are found under the same URI (an edited document) or the same content (a moved one), of any version, and in
    every space of the knowledge base whose vectors are of the same model, and not rounded where these are not: another
    language or chunking costs only what it cuts in another way.
    """
    raw = _raw(connection)
    spaces = connection.execute(
        text(
            "SELECT other.id FROM groundtune.spaces own JOIN groundtune.spaces other ON other.kb_uid = own.kb_uid "
            "AND (other.recipe -> 'embedding') #- '{endpoint,secretRef}' "
            "= (own.recipe -> 'embedding') #- '{endpoint,secretRef}' "
            "AND (own.recipe ->> 'storage' = 'halfvec' OR other.recipe ->> 'storage' IS DISTINCT FROM 'halfvec') "
            "WHERE own.id = :space UNION SELECT :space"
        ),
        {"space": space_id},
    ).scalars()
    known: dict[tuple[str, str], NDArray[np.float32]] = {}
    for space in spaces:
        rows = raw.execute(
            f"SELECT c.heading, c.text, c.embedding FROM {chunk_table(space)} c "
            "JOIN groundtune.documents d ON d.id = c.document_id "
            "WHERE d.space_id = %s AND (d.uri = ANY(%s) OR d.content_hash = ANY(%s))",
            (space, [uri for uri, _ in documents], [content for _, content in documents]),
        )
        known |= {(heading, chunk): vector.to_numpy().astype(np.float32) for heading, chunk, vector in rows}
    return known


def replace_documents(
    connection: Connection, space_id: int, version: int, documents: Sequence[NewDocument]
) -> None:
    """Write the documents into the version; earlier versions keep seeing what they saw."""
    close_documents(connection, space_id, version, [document.uri for document in documents])
    ids = [
        row[0]
        for row in connection.execute(
            text("SELECT nextval('groundtune.documents_id_seq') FROM generate_series(1, :count)"),
            {"count": len(documents)},
        )
    ]
    halved = _storage(connection, space_id) == "halfvec"
    cursor = _raw(connection).cursor()
    with cursor.copy(
        "COPY groundtune.documents (id, space_id, uri, content_hash, text, chunks, tokens, valid_from, "
        "fingerprint, source, attributes) FROM STDIN WITH (FORMAT BINARY)"
    ) as copy:
        marks = ["text", "text", "jsonb"]
        copy.set_types(["int8", "int8", "text", "text", "text", "int4", "int4", "int4", *marks])
        for id_, document in zip(ids, documents, strict=True):
            tokens = sum(chunk.tokens for chunk in document.chunks)
            content = (document.uri, document.content_hash, document.text)
            said = (document.fingerprint, document.source, Jsonb(document.attributes))
            copy.write_row((id_, space_id, *content, len(document.chunks), tokens, version, *said))
    with cursor.copy(
        f"COPY {chunk_table(space_id)} (document_id, ordinal, start_offset, end_offset, tokens, heading, text, "
        "embedding, valid_from, page) FROM STDIN WITH (FORMAT BINARY)"
    ) as copy:
        kind = "halfvec" if halved else "vector"
        copy.set_types(["int8", "int4", "int4", "int4", "int4", "text", "text", kind, "int4", "int4"])
        for id_, document in zip(ids, documents, strict=True):
            for ordinal, chunk in enumerate(document.chunks):
                place = (id_, ordinal, chunk.start, chunk.end, chunk.tokens)
                vector = HalfVector(chunk.vector) if halved else chunk.vector
                copy.write_row((*place, chunk.heading, chunk.text, vector, version, chunk.page))


def close_documents(connection: Connection, space_id: int, version: int, uris: Sequence[str]) -> None:
    """Take documents out of the version: earlier versions keep them, what only it had is deleted."""
    values = {"space": space_id, "version": version, "uris": list(uris)}
    own = "FROM groundtune.documents WHERE space_id = :space AND uri = ANY(:uris) AND valid_from = :version"
    forget_texts(connection, space_id, f"SELECT id {own}", values)
    connection.execute(text(f"DELETE {own}"), values)
    connection.execute(
        text(
            "WITH closed AS (UPDATE groundtune.documents SET valid_to = :version "
            "WHERE space_id = :space AND uri = ANY(:uris) AND valid_to IS NULL RETURNING id) "
            f"UPDATE {chunk_table(space_id)} SET valid_to = :version WHERE document_id IN (SELECT id FROM closed)"
        ),
        values,
    )


def missing_documents(
    connection: Connection,
    space_id: int,
    version: int,
    found: Sequence[str],
    kept_sources: Sequence[str] = (),
) -> list[str]:
    """URIs of documents that the version holds, that are not among `found` and come from none of `kept_sources`."""
    # a document that was stored before sources were kept may be of any of them
    kept = [*kept_sources, ""] if kept_sources else []
    raw = _raw(connection)
    raw.execute("CREATE TEMPORARY TABLE found (uri text PRIMARY KEY) ON COMMIT DROP")
    with raw.cursor().copy("COPY found (uri) FROM STDIN") as copy:
        for uri in found:
            copy.write_row((uri,))
    rows = connection.execute(
        text(
            f"SELECT d.uri FROM groundtune.documents d WHERE d.space_id = :space AND {VISIBLE} "
            "AND d.source <> ALL(:kept) AND NOT EXISTS (SELECT FROM found WHERE found.uri = d.uri)"
        ),
        {"space": space_id, "version": version, "kept": kept},
    )
    return [uri for (uri,) in rows]


def changes(connection: Connection, space_id: int, version: int) -> Changes:
    """What the version changed, also if several runs worked on it."""
    added, updated, removed = connection.execute(
        text(
            "WITH came AS (SELECT uri FROM groundtune.documents "
            "              WHERE space_id = :space AND valid_from = :version AND valid_to IS NULL), "
            "went AS (SELECT uri FROM groundtune.documents WHERE space_id = :space AND valid_to = :version) "
            "SELECT (SELECT count(*) FROM came WHERE uri NOT IN (SELECT uri FROM went)), "
            "       (SELECT count(*) FROM came WHERE uri IN (SELECT uri FROM went)), "
            "       (SELECT count(*) FROM went WHERE uri NOT IN (SELECT uri FROM came))"
        ),
        {"space": space_id, "version": version},
    ).one()
    return Changes(added, updated, removed)


def _storage(connection: Connection, space_id: int) -> str | None:
    """How the space keeps its vectors, where its recipe says it."""
    said: str | None = connection.execute(
        text("SELECT recipe ->> 'storage' FROM groundtune.spaces WHERE id = :space"), {"space": space_id}
    ).scalar_one()
    return said


def _raw(connection: Connection) -> RawConnection[Any]:
    """The driver's own connection, in the same transaction: for COPY and vectors."""
    raw: RawConnection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    if raw.adapters.types.get("vector") is None:
        register_vector(raw)
    return raw
