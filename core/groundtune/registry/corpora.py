"""Corpus versions in SQL: opened, filled, finished, moved to live, thrown away.

All of it works on the caller's transaction. A version is a number; what it holds is every row with
`valid_from` ≤ version < `valid_to` in its space.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from pgvector.psycopg import register_vector
from psycopg import Connection as RawConnection
from sqlalchemy import Connection, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from groundtune.errors import GroundtuneError
from groundtune.registry.runs import notify
from groundtune.registry.spaces import chunk_table, create_tables, create_vector_index, drop_tables
from groundtune.registry.tables import CorpusVersionRow, KnowledgeBaseRow, SpaceRow, VersionState
from groundtune.registry.texts import forget_texts
from groundtune.snapshots import KnowledgeBaseSnapshot

#: Versions before the live one that stay searchable, for rollback.
KEPT_VERSIONS = 2

_VISIBLE = "valid_from <= :version AND (valid_to IS NULL OR valid_to > :version)"


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
    """

    uri: str
    content_hash: str
    text: str
    chunks: Sequence[NewChunk]
    fingerprint: str | None = None
    source: str = ""


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


def ensure_knowledge_base(connection: Connection, snapshot: KnowledgeBaseSnapshot) -> None:
    """Its row, made if it isn't there."""
    row = {"uid": snapshot.uid, "namespace": snapshot.namespace, "name": snapshot.name}
    connection.execute(insert(KnowledgeBaseRow).values(row).on_conflict_do_nothing())


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Identity of a recipe."""
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def find_space(connection: Connection, kb_uid: str, recipe: dict[str, Any]) -> int | None:
    """Id of the space with this recipe, if there is one."""
    return connection.execute(
        select(SpaceRow.id).where(SpaceRow.kb_uid == kb_uid, SpaceRow.recipe_hash == recipe_hash(recipe))
    ).scalar_one_or_none()


def create_space(connection: Connection, kb_uid: str, recipe: dict[str, Any], dimensions: int) -> int:
    """A space with its tables; its id."""
    row = {"kb_uid": kb_uid, "recipe_hash": recipe_hash(recipe), "recipe": recipe, "dimensions": dimensions}
    space_id = connection.execute(insert(SpaceRow).values(row).returning(SpaceRow.id)).scalar_one()
    for statement in create_tables(space_id, dimensions):
        connection.execute(text(statement))
    return space_id


def space_recipe(connection: Connection, space_id: int) -> dict[str, Any]:
    """What the space was made with."""
    recipe: dict[str, Any] = connection.execute(
        select(SpaceRow.recipe).where(SpaceRow.id == space_id)
    ).scalar_one()
    return recipe


def live_version(connection: Connection, kb_uid: str) -> CorpusVersionRow | None:
    """What every search reads now."""
    return _one_version(
        connection, KnowledgeBaseRow.uid == kb_uid, KnowledgeBaseRow.live_version == CorpusVersionRow.version
    )


def newest_version(connection: Connection, kb_uid: str, space_id: int) -> CorpusVersionRow | None:
    """The newest version in a space, whatever its state."""
    return _one_version(connection, KnowledgeBaseRow.uid == kb_uid, CorpusVersionRow.space_id == space_id)


def _one_version(connection: Connection, *conditions: Any) -> CorpusVersionRow | None:
    row = connection.execute(
        select(*CorpusVersionRow.__table__.columns)
        .join(KnowledgeBaseRow, KnowledgeBaseRow.uid == CorpusVersionRow.kb_uid)
        .where(*conditions)
        .order_by(CorpusVersionRow.version.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else CorpusVersionRow(**row._mapping)


def next_version(connection: Connection, kb_uid: str) -> int:
    """The number that a new version gets."""
    newest = connection.execute(
        select(func.max(CorpusVersionRow.version)).where(CorpusVersionRow.kb_uid == kb_uid)
    ).scalar_one()
    return 1 if newest is None else int(newest) + 1


def open_version(connection: Connection, kb_uid: str, space_id: int, version: int, run_id: UUID) -> None:
    """Begin the version, or go on with it."""
    row = {"kb_uid": kb_uid, "version": version, "space_id": space_id, "run_id": run_id}
    connection.execute(
        insert(CorpusVersionRow)
        .values(state=VersionState.BUILDING, **row)
        .on_conflict_do_update(index_elements=["kb_uid", "version"], set_={"run_id": run_id})
    )


def discard_building(connection: Connection, kb_uid: str, *, except_space: int | None) -> None:
    """Undo unfinished versions of other spaces than `except_space`."""
    unfinished = connection.execute(
        select(CorpusVersionRow.version, CorpusVersionRow.space_id).where(
            CorpusVersionRow.kb_uid == kb_uid, CorpusVersionRow.state == VersionState.BUILDING
        )
    ).all()
    for version, space_id in unfinished:
        if space_id == except_space:
            continue
        values = {"space": space_id, "version": version}
        forget_texts(
            connection,
            space_id,
            "SELECT id FROM groundtune.documents WHERE space_id = :space AND valid_from = :version",
            values,
        )
        for statement in (
            "DELETE FROM groundtune.documents WHERE space_id = :space AND valid_from = :version",
            "UPDATE groundtune.documents SET valid_to = NULL WHERE space_id = :space AND valid_to = :version",
            f"UPDATE {chunk_table(space_id)} SET valid_to = NULL WHERE valid_to = :version",
        ):
            connection.execute(text(statement), values)
        connection.execute(
            delete(CorpusVersionRow).where(
                CorpusVersionRow.kb_uid == kb_uid, CorpusVersionRow.version == version
            )
        )


def visible_documents(
    connection: Connection, space_id: int, version: int, uris: Sequence[str]
) -> dict[str, StoredDocument]:
    """By URI, those of the documents that the version holds."""
    rows = connection.execute(
        text(
            "SELECT uri, content_hash, fingerprint, source FROM groundtune.documents "
            f"WHERE space_id = :space AND uri = ANY(:uris) AND {_VISIBLE}"
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
            f"WHERE d.space_id = :space AND d.uri = s.uri AND {_VISIBLE}"
        ),
        {
            "space": space_id,
            "version": version,
            "uris": [each.uri for each in seen],
            "fingerprints": [each.fingerprint for each in seen],
            "sources": [each.source for each in seen],
        },
    )


def known_vectors(
    connection: Connection, space_id: int, documents: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], NDArray[np.float32]]:
    """Vectors by (heading, text) of the chunks of what these (URI, content hash) were before.

    They are found under the same URI (an edited document) or the same content (a moved one), of any version, and in
    every space of the knowledge base whose vectors are of the same model: another language or chunking costs only
    what it cuts in another way.
    """
    raw = _raw(connection)
    spaces = connection.execute(
        text(
            "SELECT other.id FROM groundtune.spaces own JOIN groundtune.spaces other ON other.kb_uid = own.kb_uid "
            "AND other.recipe -> 'embedding' = own.recipe -> 'embedding' WHERE own.id = :space "
            "UNION SELECT :space"
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
        known |= {(heading, chunk): vector.to_numpy() for heading, chunk, vector in rows}
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
    cursor = _raw(connection).cursor()
    with cursor.copy(
        "COPY groundtune.documents (id, space_id, uri, content_hash, text, chunks, tokens, valid_from, "
        "fingerprint, source) FROM STDIN WITH (FORMAT BINARY)"
    ) as copy:
        copy.set_types(["int8", "int8", "text", "text", "text", "int4", "int4", "int4", "text", "text"])
        for id_, document in zip(ids, documents, strict=True):
            tokens = sum(chunk.tokens for chunk in document.chunks)
            content = (document.uri, document.content_hash, document.text)
            marks = (document.fingerprint, document.source)
            copy.write_row((id_, space_id, *content, len(document.chunks), tokens, version, *marks))
    with cursor.copy(
        f"COPY {chunk_table(space_id)} (document_id, ordinal, start_offset, end_offset, tokens, heading, text, "
        "embedding, valid_from, page) FROM STDIN WITH (FORMAT BINARY)"
    ) as copy:
        copy.set_types(["int8", "int4", "int4", "int4", "int4", "text", "text", "vector", "int4", "int4"])
        for id_, document in zip(ids, documents, strict=True):
            for ordinal, chunk in enumerate(document.chunks):
                place = (id_, ordinal, chunk.start, chunk.end, chunk.tokens)
                copy.write_row((*place, chunk.heading, chunk.text, chunk.vector, version, chunk.page))


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
    raw = _raw(connection)
    raw.execute("CREATE TEMPORARY TABLE found (uri text PRIMARY KEY) ON COMMIT DROP")
    with raw.cursor().copy("COPY found (uri) FROM STDIN") as copy:
        for uri in found:
            copy.write_row((uri,))
    rows = connection.execute(
        text(
            f"SELECT d.uri FROM groundtune.documents d WHERE d.space_id = :space AND {_VISIBLE} "
            "AND d.source <> ALL(:kept) AND NOT EXISTS (SELECT FROM found WHERE found.uri = d.uri)"
        ),
        {"space": space_id, "version": version, "kept": list(kept_sources)},
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


def ensure_vector_index(connection: Connection, space_id: int, m: int, ef_construction: int) -> None:
    """Build the space's HNSW index, or build it anew beside the old one if its settings differ."""
    name = f"chunks_{space_id:d}_embedding"
    options = connection.execute(
        text(
            "SELECT c.reloptions FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE n.nspname = 'groundtune_corpora' AND c.relname = :name"
        ),
        {"name": name},
    ).scalar_one_or_none()
    if options is not None and set(options) == {f"m={m:d}", f"ef_construction={ef_construction:d}"}:
        return
    connection.execute(text("SET LOCAL maintenance_work_mem = '256MB'"))
    if options is not None:
        connection.execute(text(f"ALTER INDEX groundtune_corpora.{name} RENAME TO {name}_old"))
    connection.execute(text(create_vector_index(space_id, m, ef_construction)))
    if options is not None:
        connection.execute(text(f"DROP INDEX groundtune_corpora.{name}_old"))


def finish_version(connection: Connection, kb_uid: str, version: int) -> int:
    """Count what the version holds; the number of its documents."""
    return int(
        connection.execute(
            text(
                "UPDATE groundtune.corpus_versions v SET finished_at = clock_timestamp(), "
                "(documents, chunks, tokens) = "
                "(SELECT count(*), coalesce(sum(d.chunks), 0), coalesce(sum(d.tokens), 0) "
                f" FROM groundtune.documents d WHERE d.space_id = v.space_id AND {_VISIBLE}) "
                "WHERE kb_uid = :uid AND version = :version RETURNING documents"
            ),
            {"uid": kb_uid, "version": version},
        ).scalar_one()
    )


def record_evaluation(connection: Connection, kb_uid: str, version: int, evaluation: dict[str, Any]) -> None:
    """Keep the version's retrieval scores."""
    connection.execute(_version(kb_uid, version).values(evaluation=evaluation))
    notify(connection, kb_uid)


def reject(connection: Connection, kb_uid: str, version: int) -> None:
    """Leave the live version where it is."""
    connection.execute(_version(kb_uid, version).values(state=VersionState.REJECTED))
    notify(connection, kb_uid)


def promote(connection: Connection, kb_uid: str, version: int) -> None:
    """Make a version that passed its gates the live one."""
    connection.execute(
        update(CorpusVersionRow)
        .where(CorpusVersionRow.kb_uid == kb_uid, CorpusVersionRow.state == VersionState.LIVE)
        .values(state=VersionState.SUPERSEDED)
    )
    connection.execute(_version(kb_uid, version).values(state=VersionState.LIVE))
    connection.execute(
        update(KnowledgeBaseRow).where(KnowledgeBaseRow.uid == kb_uid).values(live_version=version)
    )
    notify(connection, kb_uid)


def roll_back(connection: Connection, kb_uid: str, version: int) -> None:
    """Make a version live that was live before. A refresh leaves it so until the sources change.

    Raises:
        GroundtuneError: there is no such version (any more), or it never was live.
    """
    kept = searchable_versions(connection, kb_uid)
    if version not in kept:
        there = ", ".join(map(str, kept)) or "none"
        raise GroundtuneError(
            f"version {version} can't be made live; kept are: {there}", reason="VersionNotFound"
        )
    promote(connection, kb_uid, version)


def searchable_versions(connection: Connection, kb_uid: str) -> list[int]:
    """Versions that were live or are, newest first: what can be rolled back to."""
    return list(
        connection.execute(
            select(CorpusVersionRow.version)
            .where(
                CorpusVersionRow.kb_uid == kb_uid,
                CorpusVersionRow.state.in_([VersionState.LIVE, VersionState.SUPERSEDED]),
            )
            .order_by(CorpusVersionRow.version.desc())
        ).scalars()
    )


def history(connection: Connection, kb_uid: str) -> list[CorpusVersionRow]:
    """Every version that is kept, newest first."""
    rows = connection.execute(
        select(*CorpusVersionRow.__table__.columns)
        .where(CorpusVersionRow.kb_uid == kb_uid)
        .order_by(CorpusVersionRow.version.desc())
    )
    return [CorpusVersionRow(**row._mapping) for row in rows]


def collect_garbage(connection: Connection, kb_uid: str) -> None:
    """Delete versions older than the live one and the `KEPT_VERSIONS` before it, and the rows that only they had."""
    live = live_version(connection, kb_uid)
    if live is None:
        return
    before = [version for version in searchable_versions(connection, kb_uid) if version < live.version]
    oldest = min([live.version, *before[:KEPT_VERSIONS]])
    connection.execute(
        delete(CorpusVersionRow).where(CorpusVersionRow.kb_uid == kb_uid, CorpusVersionRow.version < oldest)
    )
    spaces = connection.execute(select(SpaceRow.id).where(SpaceRow.kb_uid == kb_uid)).scalars().all()
    for space_id in spaces:
        kept = connection.execute(
            select(func.min(CorpusVersionRow.version)).where(CorpusVersionRow.space_id == space_id)
        ).scalar_one()
        if kept is None:
            for statement in drop_tables(space_id):
                connection.execute(text(statement))
            connection.execute(delete(SpaceRow).where(SpaceRow.id == space_id))
        else:
            old = "FROM groundtune.documents WHERE space_id = :space AND valid_to <= :kept"
            values = {"space": space_id, "kept": kept}
            forget_texts(connection, space_id, f"SELECT id {old}", values)
            connection.execute(text(f"DELETE {old}"), values)


def _version(kb_uid: str, version: int) -> Any:
    return update(CorpusVersionRow).where(
        CorpusVersionRow.kb_uid == kb_uid, CorpusVersionRow.version == version
    )


def _raw(connection: Connection) -> RawConnection[Any]:
    """The driver's own connection, in the same transaction: for COPY and vectors."""
    raw: RawConnection[Any] = connection.connection.driver_connection  # type: ignore[assignment]
    if raw.adapters.types.get("vector") is None:
        register_vector(raw)
    return raw
