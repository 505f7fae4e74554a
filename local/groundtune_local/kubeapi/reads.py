"""Lists and watches."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

import orjson

from groundtune_local.kubeapi.errors import ApiError, bad_request, expired
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.rendering import Rendering
from groundtune_local.kubeapi.requests import Target, flag, number
from groundtune_local.kubeapi.selectors import Test, field_test, label_test
from groundtune_local.kubeapi.store import Change, HistoryGone, Key, Store

_BOOKMARK_SECONDS = 60.0
_LONGEST_WATCH_SECONDS = 1800
_INITIAL_EVENTS_END = {"k8s.io/initial-events-end": "true"}


@dataclass(frozen=True)
class Selection:
    """Which objects of a kind a list or watch is about."""

    kind: str
    namespace: str | None
    labels: Test
    fields: Test

    @classmethod
    def asked_for(cls, target: Target, query: Mapping[str, str]) -> Selection:
        """From the query; a name in the address selects by name. Raises ApiError 400."""
        resource = target.resource
        fields = query.get("fieldSelector") or ""
        if target.name:
            fields = f"{fields},metadata.name={target.name}"
        return cls(
            resource.qualified,
            target.namespace if resource.namespaced else None,
            label_test(query.get("labelSelector") or ""),
            field_test(fields, resource.plural, resource.selectable),
        )

    def holds(self, obj: Obj | None) -> bool:
        if obj is None or self.namespace not in (None, obj["metadata"].get("namespace", "")):
            return False
        return self.labels(obj) and self.fields(obj)

    def objects(self, store: Store) -> list[tuple[Key, Obj]]:
        return [(key, obj) for key, obj in store.entries(self.kind, self.namespace) if self.holds(obj)]


def list_objects(store: Store, rendering: Rendering, selection: Selection, query: Mapping[str, str]) -> Obj:
    """The answer to a list, a page of it where ``limit`` says so. Raises ApiError 400, 410, 504.

    Further pages show objects as they are now, under the first page's resource version: a watch from
    there tells the rest.
    """
    limit, token = number(query, "limit"), query.get("continue")
    wanted = number(query, "resourceVersion")
    found = selection.objects(store)
    version = store.rv
    if token:
        version, last = _read_token(token)
        _changes(store, selection.kind, version)
        found = [(key, obj) for key, obj in found if (key.namespace, key.name) > last]
    elif wanted:
        _refuse_future(store, wanted)
        if query.get("resourceVersionMatch") == "Exact" and _changes(store, selection.kind, wanted):
            raise expired(
                f"The provided resource version is too old: {wanted}; only the latest state is kept"
            )
    list_meta: Obj = {"resourceVersion": str(version)}
    if limit and len(found) > limit:
        list_meta["remainingItemCount"] = len(found) - limit
        found = found[:limit]
        list_meta["continue"] = _write_token(version, found[-1][0])
    return rendering.many([obj for _, obj in found], list_meta)


def _write_token(version: int, key: Key) -> str:
    return base64.urlsafe_b64encode(orjson.dumps([version, key.namespace, key.name])).decode()


def _read_token(token: str) -> tuple[int, tuple[str, str]]:
    try:
        version, namespace, name = orjson.loads(base64.urlsafe_b64decode(token))
        return int(version), (str(namespace), str(name))
    except (ValueError, TypeError) as exc:
        raise bad_request("continue key is not valid") from exc


def _changes(store: Store, kind: str, version: int) -> list[Change]:
    try:
        return store.changes_since(kind, version)
    except HistoryGone as exc:
        raise expired(f"too old resource version: {version} ({exc.oldest})") from exc


def _refuse_future(store: Store, wanted: int) -> None:
    if wanted > store.rv:
        message = f"Too large resource version: {wanted}, current: {store.rv}"
        cause = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
        raise ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


class Watch:
    """One watch: ``events`` yields its lines until its time is over or ``closing`` is set."""

    def __init__(
        self,
        store: Store,
        rendering: Rendering,
        selection: Selection,
        query: Mapping[str, str],
        closing: asyncio.Event,
    ) -> None:
        self._store = store
        self._rendering = rendering
        self._selection = selection
        self._closing = closing
        self._bookmarks = flag(query, "allowWatchBookmarks")
        self._initial = flag(query, "sendInitialEvents")
        if self._initial and query.get("resourceVersionMatch") != "NotOlderThan":
            raise bad_request("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
        wanted = number(query, "resourceVersion")
        if wanted:
            _refuse_future(store, wanted)
        self._from = None if self._initial or not wanted else wanted
        seconds = number(query, "timeoutSeconds") or _LONGEST_WATCH_SECONDS
        self._seconds = seconds

    async def events(self) -> AsyncIterator[bytes]:
        """Lines of JSON, one event each, as many at a time as there are."""
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        with self._store.subscribed(self._selection.kind) as waker:
            if self._from is None:
                version = self._store.rv
                if chunk := b"".join(self._present(version)):
                    yield chunk
            else:
                version = self._from
            bookmark_at = loop.time() + _BOOKMARK_SECONDS
            while not self._closing.is_set():
                waker.clear()
                try:
                    changes = self._store.changes_since(self._selection.kind, version)
                except HistoryGone as exc:
                    gone = expired(f"too old resource version: {version} ({exc.oldest})")
                    yield _line("ERROR", gone.status())
                    return
                version = self._store.rv
                if chunk := b"".join(self._told(changes)):
                    yield chunk
                    continue  # more may have come while this was sent
                if loop.time() >= end:
                    break
                if loop.time() >= bookmark_at:
                    bookmark_at = loop.time() + _BOOKMARK_SECONDS
                    if self._bookmarks:
                        yield self._bookmark(version)
                await self._wait(waker, min(end, bookmark_at) - loop.time())
        if self._bookmarks:
            yield self._bookmark(version)

    def _present(self, version: int) -> Iterable[bytes]:
        for _, obj in self._selection.objects(self._store):
            yield _line("ADDED", self._rendering.one(obj))
        if self._initial and self._bookmarks:
            yield self._bookmark(version, _INITIAL_EVENTS_END)

    def _told(self, changes: list[Change]) -> Iterable[bytes]:
        """What the changes look like through the selection: an object that leaves it is DELETED."""
        for change in changes:
            before = self._selection.holds(change.previous)
            after = change.type != "DELETED" and self._selection.holds(change.body)
            if after:
                yield _line("MODIFIED" if before else "ADDED", self._rendering.one(change.body))
            elif before:
                yield _line("DELETED", self._rendering.one(change.body))

    def _bookmark(self, version: int, annotations: dict[str, str] | None = None) -> bytes:
        return _line("BOOKMARK", self._rendering.bookmark(version, annotations or {}))

    async def _wait(self, waker: asyncio.Event, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await waker.wait()
        except TimeoutError:
            pass  # time for a bookmark, or the end


def _line(type_: str, obj: Obj) -> bytes:
    return orjson.dumps({"type": type_, "object": obj}) + b"\n"
