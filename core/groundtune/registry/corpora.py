"""Corpus versions in SQL: opened, finished, moved to live, thrown away; `contents` fills them.

All of it works on the caller's transaction. A version is a number; what it holds is every row with
`valid_from` ≤ version < `valid_to` in its space.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from groundtune.errors import GroundtuneError
from groundtune.registry.contents import VISIBLE
from groundtune.registry.runs import notify
from groundtune.registry.spaces import chunk_table, create_tables, create_vector_index, drop_tables
from groundtune.registry.tables import CorpusVersionRow, KnowledgeBaseRow, SpaceRow, VersionState
from groundtune.registry.texts import forget_texts
from groundtune.snapshots import KnowledgeBaseSnapshot


def ensure_knowledge_base(connection: Connection, snapshot: KnowledgeBaseSnapshot) -> None:
    """Its row, made if it isn't there."""
    row = {"uid": snapshot.uid, "namespace": snapshot.namespace, "name": snapshot.name}
    connection.execute(insert(KnowledgeBaseRow).values(row).on_conflict_do_nothing())


def recipe_hash(recipe: dict[str, Any]) -> str:
    """Identity of a recipe: of all in it that decides about the vectors, so not the key to an endpoint."""
    embedding = recipe.get("embedding", {})
    if embedding.get("endpoint"):
        endpoint = {name: value for name, value in embedding["endpoint"].items() if name != "secretRef"}
        recipe = {**recipe, "embedding": {**embedding, "endpoint": endpoint}}
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()


def find_space(connection: Connection, kb_uid: str, recipe: dict[str, Any]) -> int | None:
    """Id of the space with this recipe, if there is one."""
    found = connection.execute(
        select(SpaceRow.id, SpaceRow.recipe).where(
            SpaceRow.kb_uid == kb_uid, SpaceRow.recipe_hash == recipe_hash(recipe)
        )
    ).one_or_none()
    if found is None:
        return None
    if found.recipe != recipe:  # another key: searches have to use it, too
        connection.execute(update(SpaceRow).where(SpaceRow.id == found.id).values(recipe=recipe))
    return int(found.id)


def create_space(connection: Connection, kb_uid: str, recipe: dict[str, Any], dimensions: int) -> int:
    """A space with its tables; its id."""
    row = {"kb_uid": kb_uid, "recipe_hash": recipe_hash(recipe), "recipe": recipe, "dimensions": dimensions}
    space_id = connection.execute(insert(SpaceRow).values(row).returning(SpaceRow.id)).scalar_one()
    for statement in create_tables(space_id, dimensions, recipe.get("storage", "vector")):
        connection.execute(text(statement))
    return space_id


def space(connection: Connection, space_id: int) -> SpaceRow:
    """What the space is."""
    row = connection.execute(select(*SpaceRow.__table__.columns).where(SpaceRow.id == space_id)).one()
    return SpaceRow(**row._mapping)


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
    made = space(connection, space_id)
    storage = made.recipe.get("storage", "vector")
    connection.execute(text(create_vector_index(space_id, made.dimensions, storage, m, ef_construction)))
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
                f" FROM groundtune.documents d WHERE d.space_id = v.space_id AND {VISIBLE}) "
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


def collect_garbage(connection: Connection, kb_uid: str, kept: int) -> None:
    """Delete versions older than the live one and the `kept` before it, and the rows that only they had."""
    live = live_version(connection, kb_uid)
    if live is None:
        return
    before = [version for version in searchable_versions(connection, kb_uid) if version < live.version]
    oldest = min([live.version, *before[:kept]])
    connection.execute(
        delete(CorpusVersionRow).where(CorpusVersionRow.kb_uid == kb_uid, CorpusVersionRow.version < oldest)
    )
    spaces = connection.execute(select(SpaceRow.id).where(SpaceRow.kb_uid == kb_uid)).scalars().all()
    for space_id in spaces:
        first = connection.execute(
            select(func.min(CorpusVersionRow.version)).where(CorpusVersionRow.space_id == space_id)
        ).scalar_one()
        if first is None:
            for statement in drop_tables(space_id):
                connection.execute(text(statement))
            connection.execute(delete(SpaceRow).where(SpaceRow.id == space_id))
        else:
            old = "FROM groundtune.documents WHERE space_id = :space AND valid_to <= :first"
            values = {"space": space_id, "first": first}
            forget_texts(connection, space_id, f"SELECT id {old}", values)
            connection.execute(text(f"DELETE {old}"), values)


def _version(kb_uid: str, version: int) -> Any:
    return update(CorpusVersionRow).where(
        CorpusVersionRow.kb_uid == kb_uid, CorpusVersionRow.version == version
    )
