"""Refreshing a knowledge base, on a real database, Prefect server and embedding model."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from flows_platform import KnowledgeBase, Platform, platform
from fsspec.implementations.local import LocalFileSystem
from sqlalchemy import text

from groundtune.costs import prices
from groundtune.errors import GroundtuneError
from groundtune.registry import corpora
from groundtune.registry.database import connect
from groundtune.registry.spaces import chunk_table
from groundtune.retrieval.asking import ask_live
from groundtune.settings import settings
from groundtune_flows.refresh import refresh_knowledge_base

__all__ = ["platform"]


@dataclass
class Base(KnowledgeBase):
    """With what tests ask about it."""

    def fails(self) -> dict[str, Any]:
        with pytest.raises(GroundtuneError):
            asyncio.run(refresh_knowledge_base(self.snapshot(), "test"))
        record = self.last_run()
        assert record["state"] == "failed"
        return record

    def live(self) -> int | None:
        rows = self.query("SELECT live_version FROM groundtune.knowledge_bases WHERE uid = :uid")
        return rows[0]["live_version"] if rows else None

    def texts(self, version: int) -> dict[str, str]:
        """Documents that the version holds, by the last part of their URI."""
        rows = self.query(
            "SELECT d.uri, d.text FROM groundtune.documents d JOIN groundtune.corpus_versions v "
            "ON v.space_id = d.space_id AND v.kb_uid = :uid AND v.version = :version "
            "WHERE d.valid_from <= :version AND (d.valid_to IS NULL OR d.valid_to > :version)",
            version=version,
        )
        return {row["uri"].rsplit("/", 1)[-1]: row["text"] for row in rows}

    def spaces(self) -> list[int]:
        return [
            row["id"]
            for row in self.query("SELECT id FROM groundtune.spaces WHERE kb_uid = :uid ORDER BY id")
        ]


@pytest.fixture
def base(platform: Platform) -> Iterator[Base]:
    claim = f"c{uuid.uuid4().hex[:8]}"
    engine = connect(platform.postgres_url)
    (platform.volumes / claim).mkdir()
    yield Base(engine, platform.volumes / claim, {"sources": [{"volume": {"claimName": claim}}]})
    engine.dispose()


def golden(base: Base, *questions: tuple[str, str, str | None], gates: dict[str, float]) -> None:
    """Put a golden set beside the documents, and the gates into the spec."""
    lines = [
        json.dumps(
            {"question": question, "relevant": [{"source": source, **({"text": quote} if quote else {})}]}
        )
        for question, source, quote in questions
    ]
    base.write("golden.jsonl", "\n".join(lines))
    volume = {"claimName": base.folder.name, "path": "golden.jsonl"}
    base.spec["evaluation"] = {"dataset": {"volume": volume}, "k": 3, "gates": gates}


def test_a_refresh_costs_only_what_changed(base: Base) -> None:
    base.write(
        "hub.md",
        "# Hub\n\nThe hub pairs with a violet light.\n\n## Reset\n\n" + "Hold the button long. " * 12,
    )
    base.write("plans.md", "# Plans\n\nThe Studio plan costs 34 euros a month.")
    first = base.refresh()
    assert first["state"] == "succeeded"
    assert {
        key: first["result"][key] for key in ("version", "liveVersion", "added", "updated", "removed")
    } == {
        "version": 1,
        "liveVersion": 1,
        "added": 2,
        "updated": 0,
        "removed": 0,
    }
    assert first["tokens"] > 0
    assert first["amount"] == pytest.approx(first["seconds"] / 3600 * prices().cpu_hour, rel=0.01)
    assert first["currency"] == prices().currency

    again = base.refresh()
    assert again["state"] == "unchanged"
    assert again["result"]["version"] is None
    assert (again["result"]["unchanged"], again["result"]["embeddedChunks"], again["tokens"]) == (2, 0, 0)

    base.write("plans.md", "# Plans\n\nThe Studio plan costs 36 euros a month.")
    base.write("new.txt", "Returns go to Lindholm Quay.")
    (base.folder / "hub.md").rename(base.folder / "relay.md")
    third = base.refresh()["result"]
    assert (third["version"], third["added"], third["updated"], third["removed"]) == (2, 2, 1, 1)
    assert third["embeddedChunks"] == 2, "a renamed document is not embedded again"
    assert set(base.texts(2)) == {"relay.md", "plans.md", "new.txt"}
    assert "34 euros" in base.texts(1)["plans.md"], "the version before is still there"
    # what a citation says is what the document says
    table = chunk_table(base.spaces()[0])
    wrong = base.query(
        f"SELECT c.id FROM {table} c JOIN groundtune.documents d ON d.id = c.document_id "
        "WHERE substr(d.text, c.start_offset + 1, c.end_offset - c.start_offset) <> c.text"
    )
    assert wrong == []


def test_bad_documents_are_named_and_their_old_text_stays(base: Base) -> None:
    base.write("a.md", "The first text.")
    base.write("b.md", "Another text.")
    base.refresh()
    base.write("a.md", b"\xff\xfe broken")
    base.write("empty.md", b"")
    base.write("binary.md", b"PK\x00\x01")
    base.write("b.md", "A changed text.")
    result = base.refresh()["result"]
    assert (result["added"], result["updated"], result["removed"], result["unchanged"]) == (0, 1, 0, 0)
    assert result["failed"] == 3
    reasons = {entry["source"].rsplit("/", 1)[-1]: entry["reason"] for entry in result["failedDocuments"]}
    assert reasons == {
        "a.md": "is not UTF-8 (byte 0)",
        "empty.md": "is empty",
        "binary.md": "is binary, not text",
    }
    assert base.texts(2) == {"a.md": "The first text.", "b.md": "A changed text."}


def test_a_source_out_of_reach_loses_nothing(base: Base) -> None:
    base.write("a.md", "The first text.")
    base.refresh()
    base.folder.rename(base.folder.with_name("away"))
    record = base.fails()
    assert record["error_reason"] == "SourceUnavailable"
    assert f"spec.sources[0].volume.claimName: {base.folder.name} is not mounted" in record["error_message"]
    assert (base.live(), base.texts(1)) == (1, {"a.md": "The first text."})
    base.folder.mkdir()
    assert base.fails()["error_reason"] == "SourceEmpty", "an empty mount is no deletion of everything"
    assert base.live() == 1


def test_a_source_out_of_reach_keeps_its_documents_while_others_move_on(base: Base) -> None:
    other = base.folder.parent / f"{base.folder.name}-b"
    other.mkdir()
    (other / "lamp.md").write_text("The lamp is amber.")
    base.write("hub.md", "The hub is blue.")
    base.spec["sources"].append({"volume": {"claimName": other.name}})
    assert base.refresh()["result"]["added"] == 2
    other.rename(other.with_name(f"{other.name}-away"))
    base.write("hub.md", "The hub is red.")
    run = base.refresh()
    assert (run["state"], run["result"]["updated"], run["result"]["removed"]) == ("succeeded", 1, 0)
    assert run["result"]["unreached"][0].startswith(f"spec.sources[1].volume.claimName: {other.name}")
    assert base.texts(2) == {"hub.md": "The hub is red.", "lamp.md": "The lamp is amber."}
    with base.engine.begin() as connection:  # as documents are that were stored before sources were kept
        connection.execute(text("UPDATE groundtune.documents SET source = ''"))
    assert (base.refresh()["state"], set(base.texts(2))) == ("unchanged", {"hub.md", "lamp.md"})
    other.with_name(f"{other.name}-away").rename(other)
    (other / "lamp.md").unlink()
    (other / "plan.md").write_text("The plan costs 34 euros.")
    assert base.refresh()["result"]["unreached"] == []
    assert set(base.texts(3)) == {"hub.md", "plan.md"}


def test_what_the_source_says_is_unchanged_is_not_read(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.md", "b.md"):
        base.write(name, f"text of {name}")
    base.refresh()
    os.utime(base.folder / "b.md")
    read = []
    opened = LocalFileSystem.open
    monkeypatch.setattr(
        LocalFileSystem, "open", lambda self, path, *a: read.append(path) or opened(self, path, *a)
    )
    run = base.refresh()
    assert (run["state"], run["result"]["unchanged"]) == ("unchanged", 2)
    assert read == [str(base.folder / "b.md")]
    base.refresh()
    assert len(read) == 1  # that it is what it was, under another time, is kept


def test_attributes_are_kept_and_change_without_embedding(base: Base) -> None:
    base.write(
        "a.md", "---\nteam: red\nyear: 2026\ntags: [x]\nsince: 2026-01-31\n---\n\n# Hub\n\nIt is blue."
    )
    base.write("b.md", "# Plan\n\nIt costs 34 euros.")
    base.spec["sources"][0]["attributes"] = {"team": "blue", "product": "hub"}
    base.refresh()

    def attributes() -> dict[str, Any]:
        rows = base.query(
            "SELECT d.uri, d.attributes FROM groundtune.documents d JOIN groundtune.spaces s ON s.id = d.space_id "
            "WHERE s.kb_uid = :uid AND d.valid_to IS NULL"
        )
        return {row["uri"].rsplit("/", 1)[-1]: row["attributes"] for row in rows}

    own = {"team": "red", "year": 2026, "since": "2026-01-31"}
    assert attributes() == {"a.md": {"product": "hub", **own}, "b.md": {"team": "blue", "product": "hub"}}
    assert base.refresh()["state"] == "unchanged"
    base.spec["sources"][0]["attributes"] = {"product": "lamp"}
    run = base.refresh()
    assert (run["result"]["updated"], run["result"]["embeddedChunks"]) == (2, 0)
    assert attributes() == {"a.md": {"product": "lamp", **own}, "b.md": {"product": "lamp"}}
    del base.spec["sources"][0]["attributes"]
    assert (base.refresh()["result"]["updated"], attributes()["b.md"]) == (2, {})
    assert base.refresh()["state"] == "unchanged"


def test_another_storage_embeds_nothing(base: Base) -> None:
    base.write("a.md", "# Hub\n\nThe hub pairs with a violet light.")
    first = base.refresh()
    for storage in ("bit", "halfvec", "vector"):
        base.spec["index"] = {"storage": storage}
        run = base.refresh()
        assert (run["result"]["embeddedChunks"], run["tokens"]) == (0, 0), storage
        assert base.live() == run["result"]["version"] > first["result"]["version"]
        hits = asyncio.run(
            ask_live(
                settings().database_url.get_secret_value(),
                base.uid,
                ["Which light?"],
                base.snapshot().spec.retrieval,
                settings().models,
            )
        )
        assert hits is not None
        assert hits[0][0].text.endswith("violet light.")


def test_vectors_are_not_made_of_rounded_ones(base: Base) -> None:
    base.write("a.md", "# Hub\n\nThe hub pairs with a violet light.")
    base.spec["index"] = {"storage": "halfvec"}
    base.refresh()
    base.spec["index"] = {"storage": "vector"}
    assert base.refresh()["result"]["embeddedChunks"] == 1


def test_so_many_versions_are_kept(base: Base) -> None:
    for versions, kept in ((3, [5, 4, 3, 2]), (1, [6, 5])):
        base.spec["retention"] = {"versions": versions}
        while (base.live() or 0) < kept[0]:
            base.write("a.md", f"Text {base.live()}.")
            base.refresh()
        rows = base.query(
            "SELECT version FROM groundtune.corpus_versions WHERE kb_uid = :uid ORDER BY 1 DESC"
        )
        assert [row["version"] for row in rows] == kept


def test_documents_of_several_formats_in_one_version(base: Base) -> None:
    base.write(
        "page.html",
        "<html><title>Hub</title><body><h2>Reset</h2><p>Hold it for 12 seconds.</p></body></html>",
    )
    base.write("plans.csv", "plan,price\nStudio,34\n")
    base.write("broken.pdf", "%PDF-1.4 nothing")
    base.spec["sources"][0]["include"] = ["**/*"]
    run = base.refresh()
    assert (run["result"]["added"], run["result"]["failed"]) == (2, 1)
    assert run["result"]["failedDocuments"][0]["reason"] == "is not a PDF that can be read"
    assert base.texts(1) == {
        "page.html": "# Hub\n\n## Reset\n\nHold it for 12 seconds.\n",
        "plans.csv": "plan: Studio\nprice: 34",
    }


def test_only_a_version_that_answers_goes_live(base: Base) -> None:
    base.write("plans.md", "# Plans\n\nThe Studio plan costs 34 euros a month.")
    base.write("hub.md", "# Hub\n\nThe hub pairs with a violet light.")
    golden(base, ("What does the Studio plan cost?", "plans.md", "costs 34 euros"), gates={"minRecall": 1})
    first = base.refresh()
    assert first["result"]["evaluation"] == {
        "version": 1,
        "k": 3,
        "questions": 1,
        "bootstrapQuestions": 0,
        "recall": 1.0,
        "precision": pytest.approx(1 / 3),
        "mrr": 1.0,
        "ndcg": 1.0,
    }

    base.write("plans.md", "# Plans\n\nPlans are described elsewhere.")
    rejected = base.fails()
    assert rejected["error_reason"] == "EvaluationFailed"
    message = "corpus version 2: recall@3 0.000 is below minRecall 1; version 1 stays live"
    assert rejected["error_message"] == message
    assert (rejected["result"]["version"], base.live()) == (2, 1)
    again = base.fails()
    assert (again["error_message"], again["tokens"], again["result"]["version"]) == (message, 0, None)
    assert base.query(
        "SELECT max(version) AS newest FROM groundtune.corpus_versions WHERE kb_uid = :uid"
    ) == [{"newest": 2}]

    base.spec["evaluation"]["gates"] = {"maxRegression": 0.5}
    assert "below the live version's 1.000, more than maxRegression 0.5" in base.fails()["error_message"]
    base.spec["evaluation"]["gates"] = {}
    loosened = base.refresh()
    assert (loosened["state"], loosened["result"]["liveVersion"], loosened["tokens"]) == ("succeeded", 2, 0)
    states = base.query(
        "SELECT version, state FROM groundtune.corpus_versions WHERE kb_uid = :uid ORDER BY version"
    )
    assert [row["state"] for row in states] == ["superseded", "live"]


def test_the_table_of_questions_is_of_the_newest_version(base: Base, platform: Platform) -> None:
    base.write("plans.md", "# Plans\n\nThe Studio plan costs 34 euros a month.")
    base.write("hub.md", "# Hub\n\nThe hub pairs with a violet light.")
    asked = ("What does the Studio plan cost?", "plans.md", "costs 34 euros")
    golden(base, asked, gates={"maxRegression": 1})
    base.refresh()
    base.write("plans.md", "# Plans\n\nThe Studio plan costs 35 euros a month.")
    golden(
        base, ("What does the Studio plan cost?", "plans.md", "costs 36 euros"), gates={"maxRegression": 1}
    )
    base.refresh()  # measures the live version with the new questions, too
    filters = {"artifacts": {"key": {"any_": ["tests-docs-questions"]}}}
    response = httpx.post(f"{platform.prefect_url}/artifacts/latest/filter", json=filters)
    (table,) = response.raise_for_status().json()
    assert table["description"] == "Questions that corpus version 2 answers worst"


def test_a_new_recipe_is_built_beside_the_old_and_a_killed_one_goes_on(
    base: Base, platform: Platform
) -> None:
    for number in range(6):
        paragraphs = (f"Paragraph {i} of document {number}, in a few words." for i in range(150))
        base.write(f"{number}.md", "\n\n".join(paragraphs))
    base.spec["chunking"] = {"maxTokens": 18}
    whole = base.refresh()["result"]["embeddedChunks"]
    assert whole > 2 * 256, "several batches, so that a kill can come between"
    (old,) = base.spaces()
    base.spec["embedding"] = {"documentPrefix": "passage: "}

    def between_batches() -> bool:
        return any(
            base.query(f"SELECT EXISTS (SELECT FROM {chunk_table(space)}) AS some")[0]["some"]
            for space in base.spaces()
            if space != old
        )

    platform.killed(base.snapshot(), "refresh", "refresh_knowledge_base", between_batches)
    assert base.live() == 1, "readers see the old space until the new one is whole"
    (new,) = (space for space in base.spaces() if space != old)
    stored = base.query(f"SELECT count(*) AS chunks FROM {chunk_table(new)}")[0]["chunks"]
    resumed = base.refresh()["result"]
    total = base.query(f"SELECT count(*) AS chunks FROM {chunk_table(new)}")[0]["chunks"]
    assert 0 < stored < total
    assert resumed["embeddedChunks"] == total - stored, "what was stored is not embedded again"
    assert (resumed["version"], base.live(), resumed["added"]) == (2, 2, 6)

    # the recipe before is still there and costs nothing
    del base.spec["embedding"]
    back = base.refresh()
    assert (back["result"]["version"], back["tokens"], base.live()) == (3, 0, 3)
    assert base.spaces() == [old, new]


def test_another_language_or_chunking_embeds_only_what_is_cut_in_another_way(base: Base) -> None:
    base.write(
        "a.md",
        f"# Hub\n\n{'Hubs blink blue. ' * 14}\n\n# Lamp\n\n{'Lamps are amber, and dim at night. ' * 30}",
    )
    base.refresh()
    base.spec["index"] = {"language": "german"}
    german = base.refresh()["result"]
    assert (german["version"], german["liveVersion"], german["embeddedChunks"]) == (2, 2, 0)
    base.spec["chunking"] = {"maxTokens": 100}
    smaller = base.refresh()["result"]
    assert (smaller["version"], smaller["liveVersion"]) == (3, 3)
    cut = [
        {
            (row["heading"], row["text"])
            for row in base.query(f"SELECT heading, text FROM {chunk_table(space)}")
        }
        for space in base.spaces()
    ]
    assert cut[0] == cut[1]
    assert cut[0] & cut[2], "some are cut as before"
    assert smaller["embeddedChunks"] == len(cut[2] - cut[0]) > 0


def test_a_rollback_holds_until_the_sources_change(base: Base) -> None:
    for number in range(1, 6):
        base.write("a.md", f"Text number {number}.")
        base.refresh()
    with base.engine.begin() as connection:
        assert corpora.searchable_versions(connection, base.uid) == [5, 4, 3]
        with pytest.raises(GroundtuneError, match="version 2 can't be made live; kept are: 5, 4, 3"):
            corpora.roll_back(connection, base.uid, 2)
        corpora.roll_back(connection, base.uid, 4)
    stored = base.query(
        "SELECT text FROM groundtune.documents WHERE space_id = :space ORDER BY id", space=base.spaces()[0]
    )
    assert [row["text"] for row in stored] == [f"Text number {number}." for number in (3, 4, 5)]
    assert base.refresh()["state"] == "unchanged"
    assert (base.live(), base.texts(4)) == (4, {"a.md": "Text number 4."})
    base.write("a.md", "Text number 6.")
    assert base.refresh()["result"]["liveVersion"] == 6


def test_an_index_with_other_settings_replaces_the_old(base: Base) -> None:
    base.write("a.md", "The only text.")
    base.refresh()
    base.spec["index"] = {"m": 8, "efConstruction": 32}
    assert base.refresh()["state"] == "unchanged"
    options = base.query(
        "SELECT indexdef FROM pg_indexes WHERE indexname LIKE :name",
        name=f"chunks_{base.spaces()[0]}_embedding%",
    )
    assert len(options) == 1
    assert "m='8'" in options[0]["indexdef"]
