"""Where objects live: all in memory, every write first in SQLite, recent changes kept for watches.

The event loop is the only writer. A write is one transaction, so a process killed at any moment loses
nothing that was answered, and the counter of resource versions never goes back.
"""

from __future__ import annotations

import asyncio
import sqlite3
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import orjson

from groundtune_local.kubeapi.objects import Obj, clone

_TABLES = """
CREATE TABLE IF NOT EXISTS objects (
    kind TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL, body BLOB NOT NULL,
    PRIMARY KEY (kind, namespace, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS changes (
    rv INTEGER PRIMARY KEY, kind TEXT NOT NULL, type TEXT NOT NULL, body BLOB NOT NULL, previous BLOB);
CREATE INDEX IF NOT EXISTS changes_of_kind ON changes (kind, rv);
CREATE TABLE IF NOT EXISTS forgotten (kind TEXT PRIMARY KEY, rv INTEGER NOT NULL) WITHOUT ROWID;
"""


@dataclass(frozen=True, order=True)
class Key:
    """Where an object is: its kind's storage name (``plural.group``), namespace ("" for none), name."""

    kind: str
    namespace: str
    name: str


@dataclass(frozen=True)
class Change:
    """One write: ``type`` is ADDED, MODIFIED or DELETED; ``body`` is the object after it (for a
    deletion the last state, with the resource version of the deletion), ``previous`` the one before."""

    rv: int
    type: str
    body: Obj
    previous: Obj | None


class HistoryGone(Exception):
    """The changes asked for are older than those kept; ``oldest`` is the oldest usable version."""

    def __init__(self, oldest: int) -> None:
        super().__init__(f"changes before {oldest} are forgotten")
        self.oldest = oldest


class StoreLocked(Exception):
    """Another process holds the data directory."""


class Store:
    """Objects by key. What it returns must not be changed in place: clone first.

    ``history`` is how many changes of each kind are kept for watches to resume from.
    """

    def __init__(self, path: Path, history: int) -> None:
        self._history = history
        self._objects: dict[str, dict[Key, Obj]] = {}
        self._changes: dict[str, list[Change]] = {}
        self._forgotten: dict[str, int] = {}
        self._by_uid: dict[str, Key] = {}
        self._dependents: dict[str, set[Key]] = {}
        self._wakers: dict[str, set[asyncio.Event]] = {}
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(f"BEGIN IMMEDIATE; {_TABLES} COMMIT;")
        except sqlite3.OperationalError as exc:
            self._db.close()
            if "locked" in str(exc):
                raise StoreLocked(f"{path} is in use by another process") from exc
            raise
        self.rv = 0
        self._load()

    def _load(self) -> None:
        for kind, namespace, name, body in self._db.execute("SELECT * FROM objects"):
            key = Key(kind, namespace, name)
            obj = orjson.loads(body)
            self._objects.setdefault(kind, {})[key] = obj
            self._index(key, None, obj)
        for rv, kind, type_, body, previous in self._db.execute("SELECT * FROM changes ORDER BY rv"):
            change = Change(rv, type_, orjson.loads(body), orjson.loads(previous) if previous else None)
            self._changes.setdefault(kind, []).append(change)
            self.rv = rv
        self._forgotten = dict(self._db.execute("SELECT kind, rv FROM forgotten"))

    def close(self) -> None:
        self._db.close()

    def get(self, key: Key) -> Obj | None:
        return self._objects.get(key.kind, {}).get(key)

    def entries(self, kind: str, namespace: str | None = None) -> list[tuple[Key, Obj]]:
        """All objects of a kind in the order of their keys; ``namespace`` None means everywhere."""
        found = self._objects.get(kind, {}).items()
        return sorted(
            ((k, o) for k, o in found if namespace is None or k.namespace == namespace), key=lambda p: p[0]
        )

    def in_namespace(self, namespace: str) -> list[Key]:
        """Everything that lives in a namespace."""
        return sorted(k for kind in self._objects.values() for k in kind if k.namespace == namespace)

    def key_of_uid(self, uid: str) -> Key | None:
        return self._by_uid.get(uid)

    def dependents(self, uid: str) -> list[Key]:
        """Keys of the objects that name ``uid`` in their owner references."""
        return sorted(self._dependents.get(uid, ()))

    def owner_uids(self) -> list[str]:
        """Every uid that some object names as its owner."""
        return sorted(uid for uid, keys in self._dependents.items() if keys)

    def put(self, key: Key, obj: Obj) -> Obj:
        """Write an object, new or not, under the next resource version, which it gets. Takes ``obj``
        over: the caller must not change it afterwards."""
        previous = self.get(key)
        rv = self.rv + 1
        obj["metadata"]["resourceVersion"] = str(rv)
        change = Change(rv, "MODIFIED" if previous else "ADDED", obj, previous)
        with self._transaction():
            body = self._record(key.kind, change)
            self._db.execute(
                "REPLACE INTO objects VALUES (?, ?, ?, ?)", (key.kind, key.namespace, key.name, body)
            )
        self._objects.setdefault(key.kind, {})[key] = obj
        self._published(key, change)
        return obj

    def remove(self, key: Key, final: Obj) -> Obj:
        """Delete the object at ``key``; watches see ``final``, which gets the next resource version."""
        previous = self.get(key)
        rv = self.rv + 1
        final["metadata"]["resourceVersion"] = str(rv)
        change = Change(rv, "DELETED", final, previous)
        with self._transaction():
            self._record(key.kind, change)
            self._db.execute(
                "DELETE FROM objects WHERE kind = ? AND namespace = ? AND name = ?",
                (key.kind, key.namespace, key.name),
            )
        del self._objects[key.kind][key]
        self._published(key, change)
        return final

    def reread(self, kind: str, convert: Callable[[Obj], None]) -> None:
        """Pass all objects of a kind, as they are held in memory, through ``convert``, which may change
        them in place. No resource version is used up and no watch sees it."""
        for key, obj in list(self._objects.get(kind, {}).items()):
            converted = clone(obj)
            convert(converted)
            self._objects[kind][key] = converted

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _record(self, kind: str, change: Change) -> bytes:
        body = orjson.dumps(change.body)
        previous = orjson.dumps(change.previous) if change.previous else None
        self._db.execute(
            "INSERT INTO changes VALUES (?, ?, ?, ?, ?)", (change.rv, kind, change.type, body, previous)
        )
        kept = self._changes.get(kind, ())
        if len(kept) >= 2 * self._history:
            last = kept[len(kept) - self._history - 1].rv
            self._db.execute("DELETE FROM changes WHERE kind = ? AND rv <= ?", (kind, last))
            self._db.execute("REPLACE INTO forgotten VALUES (?, ?)", (kind, last))
        return body

    def _published(self, key: Key, change: Change) -> None:
        self.rv = change.rv
        kept = self._changes.setdefault(key.kind, [])
        if len(kept) >= 2 * self._history:
            self._forgotten[key.kind] = kept[len(kept) - self._history - 1].rv
            del kept[: len(kept) - self._history]
        kept.append(change)
        self._index(key, change.previous, None if change.type == "DELETED" else change.body)
        for waker in self._wakers.get(key.kind, ()):
            waker.set()

    def _index(self, key: Key, old: Obj | None, new: Obj | None) -> None:
        if old is not None:
            self._by_uid.pop(old["metadata"]["uid"], None)
            for owner in old["metadata"].get("ownerReferences") or ():
                self._dependents.get(owner["uid"], set()).discard(key)
        if new is not None:
            self._by_uid[new["metadata"]["uid"]] = key
            for owner in new["metadata"].get("ownerReferences") or ():
                self._dependents.setdefault(owner["uid"], set()).add(key)

    def changes_since(self, kind: str, rv: int) -> list[Change]:
        """The changes of a kind after version ``rv``, oldest first. Raises HistoryGone."""
        forgotten = self._forgotten.get(kind, 0)
        if rv < forgotten:
            raise HistoryGone(forgotten)
        kept = self._changes.get(kind, [])
        return kept[bisect_right(kept, rv, key=lambda change: change.rv) :]

    @contextmanager
    def subscribed(self, kind: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something of ``kind`` changes."""
        waker = asyncio.Event()
        self._wakers.setdefault(kind, set()).add(waker)
        try:
            yield waker
        finally:
            self._wakers[kind].discard(waker)

    def wake_all(self) -> None:
        """Wake every subscriber, changes or not."""
        for wakers in self._wakers.values():
            for waker in wakers:
                waker.set()
