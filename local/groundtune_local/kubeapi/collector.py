"""Clean-up that follows deletions: dependents of owners, contents of namespaces, objects of kinds.

Work is queued by what the store tells and done by one task, a step at a time, so that requests are
answered in between. The queue is not stored: ``recover`` finds what was left over at the last end.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
from collections import deque
from collections.abc import Iterable
from typing import Any

from groundtune_local.kubeapi.builtins import NAMESPACE_FINALIZER
from groundtune_local.kubeapi.definitions import CLEANUP_FINALIZER
from groundtune_local.kubeapi.errors import ApiError
from groundtune_local.kubeapi.objects import Obj, clone, finalizers, is_deleting, parse_time
from groundtune_local.kubeapi.resources import CRDS, EVENTS, NAMESPACES, Registry, Resource
from groundtune_local.kubeapi.store import Key, Store
from groundtune_local.kubeapi.writes import DeleteOptions, WriteOptions, Writer

_LOG = logging.getLogger(__name__)
_OPTIONS = WriteOptions(manager="garbage-collector", validation="Ignore")
_EVENTS_KEPT = datetime.timedelta(hours=1)
_EVENT_SWEEP_SECONDS = 300


class Collector:
    """Listens to a Writer and cleans up behind it, once ``run`` is running."""

    def __init__(self, store: Store, registry: Registry, writer: Writer) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._queue: deque[Key | str] = deque()
        self._wake = asyncio.Event()

    def written(self, resource: Resource, key: Key, obj: Obj) -> None:
        if is_deleting(obj) or obj["metadata"].get("ownerReferences"):
            self._enqueue(key)

    def removed(self, resource: Resource, key: Key, obj: Obj) -> None:
        self._enqueue(obj["metadata"]["uid"])
        waiting = [Key(NAMESPACES.qualified, "", key.namespace)] if key.namespace else []
        waiting.append(Key(CRDS.qualified, "", key.kind))
        for reference in obj["metadata"].get("ownerReferences") or ():
            owner = self._store.key_of_uid(reference["uid"])
            waiting += [owner] if owner else []
        for other in waiting:
            held = self._store.get(other)
            if held is not None and is_deleting(held):
                self._enqueue(other)

    def recover(self) -> None:
        """Queue what an earlier process may not have finished."""
        for resource in self._registry.storages():
            for key, obj in self._store.entries(resource.qualified):
                self.written(resource, key, obj)

    def _enqueue(self, item: Key | str) -> None:
        self._queue.append(item)
        self._wake.set()

    async def run(self) -> None:
        """Work through the queue for ever."""
        while True:
            while self._queue:
                item = self._queue.popleft()
                try:
                    self._handle(item)
                except ApiError as exc:
                    _LOG.warning("clean-up of %s: %s", item, exc.message)
                await asyncio.sleep(0)
            self._wake.clear()
            await self._wake.wait()

    async def expire_events(self) -> None:
        """Delete events that are an hour old, for ever."""
        while True:
            before = datetime.datetime.now(datetime.UTC) - _EVENTS_KEPT
            for key, obj in self._store.entries(EVENTS.qualified):
                seen = obj.get("lastTimestamp") or obj["metadata"]["creationTimestamp"]
                try:
                    old = parse_time(seen) < before
                except ValueError:
                    old = True
                if old:
                    self._writer.delete(EVENTS, key, DeleteOptions())
            await asyncio.sleep(_EVENT_SWEEP_SECONDS)

    def _handle(self, item: Key | str) -> None:
        if isinstance(item, str):
            for dependent in self._store.dependents(item):
                self._release(dependent, {item})
            return
        obj = self._store.get(item)
        if obj is None:
            return
        if is_deleting(obj):
            self._advance(item, obj)
        else:
            self._release(item, self._absent_owners(obj))

    def _resource(self, key: Key) -> Resource | None:
        return next((r for r in self._registry.storages() if r.qualified == key.kind), None)

    def _absent_owners(self, obj: Obj) -> set[str]:
        """Owners that are gone. An owner of a kind that is not served here is taken to exist."""
        return {
            reference["uid"]
            for reference in obj["metadata"].get("ownerReferences") or ()
            if self._store.key_of_uid(reference["uid"]) is None
            and self._registry.find_kind(reference["apiVersion"], reference["kind"]) is not None
        }

    def _release(self, key: Key, gone: set[str]) -> None:
        """Take the owners that are gone from an object; delete it where no other is left."""
        obj, resource = self._store.get(key), self._resource(key)
        if not gone or obj is None or resource is None or is_deleting(obj):
            return
        references = obj["metadata"]["ownerReferences"]
        left = [reference for reference in references if reference["uid"] not in gone]
        if not left:
            self._writer.delete(resource, key, DeleteOptions(uid=obj["metadata"]["uid"]))
        else:
            self._change_metadata(resource, key, "ownerReferences", left)

    def _advance(self, key: Key, obj: Obj) -> None:
        """Take the next step with an object that is being deleted."""
        resource = self._resource(key)
        if resource is None:
            return
        if resource == NAMESPACES and NAMESPACE_FINALIZER in obj["spec"].get("finalizers", ()):
            self._empty(self._store.in_namespace(key.name))
            if not self._store.in_namespace(key.name):
                self._writer.patch(resource, key, _without_namespace_finalizer, _OPTIONS)
        if resource == CRDS and CLEANUP_FINALIZER in finalizers(obj):
            self._empty([k for k, _ in self._store.entries(key.name)])
            if not self._store.entries(key.name):
                self._drop_finalizer(resource, key, CLEANUP_FINALIZER)
        if "orphan" in finalizers(obj):
            for dependent in self._store.dependents(obj["metadata"]["uid"]):
                self._disown(dependent, obj["metadata"]["uid"])
            self._drop_finalizer(resource, key, "orphan")
        if "foregroundDeletion" in finalizers(obj):
            self._empty(self._store.dependents(obj["metadata"]["uid"]))
            if not self._store.dependents(obj["metadata"]["uid"]):
                self._drop_finalizer(resource, key, "foregroundDeletion")

    def _empty(self, keys: Iterable[Key]) -> None:
        for key in keys:
            resource, obj = self._resource(key), self._store.get(key)
            if resource is not None and obj is not None and not is_deleting(obj):
                self._writer.delete(resource, key, DeleteOptions())

    def _disown(self, key: Key, uid: str) -> None:
        obj, resource = self._store.get(key), self._resource(key)
        if obj is not None and resource is not None:
            left = [r for r in obj["metadata"]["ownerReferences"] if r["uid"] != uid]
            self._change_metadata(resource, key, "ownerReferences", left)

    def _drop_finalizer(self, resource: Resource, key: Key, name: str) -> None:
        obj = self._store.get(key)
        if obj is not None:
            left = [finalizer for finalizer in finalizers(obj) if finalizer != name]
            self._change_metadata(resource, key, "finalizers", left)

    def _change_metadata(self, resource: Resource, key: Key, name: str, value: list[Any]) -> None:
        def change(obj: Obj) -> Obj:
            return {**obj, "metadata": {**obj["metadata"], name: value}}

        self._writer.patch(resource, key, change, _OPTIONS)


def _without_namespace_finalizer(obj: Obj) -> Obj:
    changed: Obj = clone(obj)
    changed["spec"]["finalizers"] = [f for f in changed["spec"]["finalizers"] if f != NAMESPACE_FINALIZER]
    return changed
