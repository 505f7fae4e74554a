"""Corpus versions as intervals, against a model that simply keeps a copy of everything."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine, text

from groundtune.api import KnowledgeBaseSpec
from groundtune.registry import contents, corpora
from groundtune.registry.database import connect
from groundtune.registry.spaces import chunk_table, term_table, text_table
from groundtune.registry.texts import index_texts
from groundtune.snapshots import KnowledgeBaseSnapshot

NAMES = st.sampled_from("abcd")
TEXTS = st.sampled_from(["one", "two", "three"])
RUN = uuid.uuid4()


def document(name: str, content: str) -> contents.NewDocument:
    vector = np.array([1.0, 0.0, 0.0], dtype=np.float32)
    chunks = [contents.NewChunk(i, i + 1, 1, "", letter, vector) for i, letter in enumerate(content)]
    return contents.NewDocument(name, hashlib.sha256(content.encode()).hexdigest(), content, chunks)


@dataclass
class Kept:
    """The model: what every version should hold."""

    versions: dict[int, dict[str, str]] = field(default_factory=dict)
    live: int | None = None


def machine(engine: Engine) -> Callable[[], RuleBasedStateMachine]:
    class Versions(RuleBasedStateMachine):
        """Refreshes of random sources, some cut short, some rejected, and rollbacks."""

        def __init__(self) -> None:
            super().__init__()
            self.kept = Kept()
            self.sources: dict[str, str] = {"a": "one"}
            self.newest: dict[str, str] = {}
            self.building: int | None = None

        @initialize()
        def make(self) -> None:
            self.uid = str(uuid.uuid4())
            spec = KnowledgeBaseSpec.model_validate({"sources": [{"volume": {"claimName": "c"}}]})
            snapshot = KnowledgeBaseSnapshot(namespace="n", name="n", uid=self.uid, generation=1, spec=spec)
            with engine.begin() as connection:
                corpora.ensure_knowledge_base(connection, snapshot)
                self.space = corpora.create_space(connection, self.uid, {"language": "simple"}, 3)

        @rule(name=NAMES, content=TEXTS)
        def write(self, name: str, content: str) -> None:
            self.sources[name] = content

        @rule(name=NAMES)
        def delete(self, name: str) -> None:
            self.sources.pop(name, None)

        @rule(name=NAMES, other=NAMES)
        def rename(self, name: str, other: str) -> None:
            if name in self.sources:
                self.sources[other] = self.sources.pop(name)

        @rule(done=st.integers(0, 3))
        def killed_refresh(self, done: int) -> None:
            self._fill(done)

        @rule(good=st.booleans())
        def refresh(self, good: bool) -> None:
            version = self._fill(None)
            with engine.begin() as connection:
                index_texts(connection, self.space)
                assert corpora.finish_version(connection, self.uid, version) == len(self.sources)
                if good:
                    corpora.promote(connection, self.uid, version)
                    corpora.collect_garbage(connection, self.uid, 2)
                else:
                    corpora.reject(connection, self.uid, version)
            self.building = None
            self.kept.versions[version] = dict(self.sources)
            if good:
                self.kept.live = version
                self._forget()

        @precondition(lambda self: self.kept.live is not None)
        @rule(data=st.data())
        def roll_back(self, data: st.DataObject) -> None:
            with engine.begin() as connection:
                there = corpora.searchable_versions(connection, self.uid)
                assert self.kept.live in there
                self.kept.live = data.draw(st.sampled_from(there))
                corpora.roll_back(connection, self.uid, self.kept.live)

        def _fill(self, limit: int | None) -> int:
            """Bring the next version in line with the sources; stop after `limit` documents, as a kill would."""
            with engine.begin() as connection:
                version = self.building or corpora.next_version(connection, self.uid)
                corpora.open_version(connection, self.uid, self.space, version, RUN)
                self.building = version
                stored = contents.visible_documents(connection, self.space, version, list("abcd"))
            changed = [
                made
                for made in (document(name, content) for name, content in sorted(self.sources.items()))
                if made.uri not in stored or stored[made.uri].content_hash != made.content_hash
            ]
            for made in changed[:limit]:
                with engine.begin() as connection:
                    contents.replace_documents(connection, self.space, version, [made])
            if limit is None:
                with engine.begin() as connection:
                    gone = contents.missing_documents(connection, self.space, version, list(self.sources))
                    contents.close_documents(connection, self.space, version, gone)
            return version

        def _forget(self) -> None:
            with engine.connect() as connection:
                oldest = min(corpora.searchable_versions(connection, self.uid))
            self.kept.versions = {v: held for v, held in self.kept.versions.items() if v >= oldest}

        @invariant()
        def every_kept_version_holds_what_it_held(self) -> None:
            if not hasattr(self, "space"):
                return
            visible = "x.valid_from <= :version AND (x.valid_to IS NULL OR x.valid_to > :version)"
            with engine.connect() as connection:
                live = corpora.live_version(connection, self.uid)
                assert (live.version if live else None) == self.kept.live
                for version, held in self.kept.versions.items():
                    values = {"space": self.space, "version": version}
                    documents = connection.execute(
                        text(
                            f"SELECT uri, text FROM groundtune.documents x WHERE space_id = :space AND {visible}"
                        ),
                        values,
                    )
                    assert {row.uri: row.text for row in documents} == held
                    pieces = connection.execute(
                        text(
                            f"SELECT d.uri, string_agg(x.text, '' ORDER BY x.ordinal) AS text "
                            f"FROM {chunk_table(self.space)} x JOIN groundtune.documents d ON d.id = x.document_id "
                            f"WHERE {visible} GROUP BY d.uri"
                        ),
                        values,
                    )
                    assert {row.uri: row.text for row in pieces} == held

        @invariant()
        def words_are_counted_right(self) -> None:
            if not hasattr(self, "space"):
                return
            texts, terms = text_table(self.space), term_table(self.space)
            with engine.connect() as connection:
                counted = connection.execute(text(f"SELECT lexeme, chunks FROM {terms} WHERE chunks <> 0"))
                real = connection.execute(
                    text(f"SELECT word, ndoc FROM ts_stat('SELECT search FROM {texts}')")
                )
                assert dict(counted.tuples().all()) == dict(real.tuples().all())
                totals = text("SELECT texts, lexemes FROM groundtune.spaces WHERE id = :space")
                stored = connection.execute(totals, {"space": self.space}).one()
                sums = text(f"SELECT count(*), coalesce(sum(length(search)), 0) FROM {texts}")
                assert tuple(stored) == tuple(connection.execute(sums).one())

    return Versions


def test_every_kept_version_stays_what_it_was(postgres_url: str) -> None:
    engine = connect(postgres_url)
    run_state_machine_as_test(
        machine(engine),
        settings=settings(
            max_examples=15,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
    engine.dispose()


def test_an_unfinished_version_of_another_recipe_is_undone(postgres_url: str) -> None:
    engine = connect(postgres_url)
    uid = str(uuid.uuid4())
    spec = KnowledgeBaseSpec.model_validate({"sources": [{"volume": {"claimName": "c"}}]})
    with engine.begin() as connection:
        snapshot = KnowledgeBaseSnapshot(namespace="n", name="n", uid=uid, generation=1, spec=spec)
        corpora.ensure_knowledge_base(connection, snapshot)
        space = corpora.create_space(connection, uid, {"recipe": 1}, 3)
        corpora.open_version(connection, uid, space, 1, RUN)
        contents.replace_documents(connection, space, 1, [document("a", "one"), document("b", "two")])
        corpora.promote(connection, uid, 1)
        corpora.open_version(connection, uid, space, 2, RUN)
        contents.replace_documents(connection, space, 2, [document("a", "changed")])
        contents.close_documents(connection, space, 2, ["b"])
        corpora.discard_building(connection, uid, except_space=None)
        assert corpora.next_version(connection, uid) == 2
        assert set(contents.visible_documents(connection, space, 2, ["a", "b"])) == {"a", "b"}
        assert contents.changes(connection, space, 2) == contents.Changes(0, 0, 0)
        reused = contents.known_vectors(connection, space, [("b", "")])
        assert {key: list(vector) for key, vector in reused.items()} == {
            ("", letter): [1, 0, 0] for letter in "two"
        }
    engine.dispose()
