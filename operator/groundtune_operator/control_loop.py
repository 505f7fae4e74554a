"""The operator's heart: one queue of resources, and for each the same three steps: observe, plan, act."""

from __future__ import annotations

import asyncio
import logging

from groundtune.api import KINDS
from groundtune.settings import settings as core_settings
from groundtune_operator import events, inference_deployment
from groundtune_operator.cache import FINALIZER, Body, Cache, Key
from groundtune_operator.clients.http import BackendError
from groundtune_operator.clients.kube import Kube
from groundtune_operator.clients.prefect import Prefect
from groundtune_operator.clients.registry import Registry
from groundtune_operator.clients.serve import Serve
from groundtune_operator.conditions import merge
from groundtune_operator.context import Context, Outcome, soonest
from groundtune_operator.deletion import clean_up
from groundtune_operator.events import Event
from groundtune_operator.fine_tune_job import FINE_TUNE_JOB
from groundtune_operator.knowledge_base import KNOWLEDGE_BASE
from groundtune_operator.observer import Observer
from groundtune_operator.pipeline import Pipelines
from groundtune_operator.references import dependents, referred
from groundtune_operator.serve_sync import ServeSync
from groundtune_operator.settings import OperatorSettings
from groundtune_operator.status import dump, merge_patch
from groundtune_operator.work_queue import WorkQueue

logger = logging.getLogger(__name__)

_CLEAN_UP_SECONDS = 1.0
_LOOK_SECONDS = 0.5


class Operator:
    """Runs until cancelled. `seen` and `gone` are how watches tell it about resources."""

    def __init__(self, settings: OperatorSettings) -> None:
        self._cache = Cache()
        self._queue: WorkQueue[Key] = WorkQueue(
            self.reconcile, workers=settings.workers, expected=BackendError
        )
        prefect, serve = Prefect(settings), Serve(settings)
        registry = Registry(core_settings().database_url.get_secret_value(), settings.request_seconds)
        observer = Observer(settings, self._cache, registry, prefect, serve, self._wake, self._wake_all)
        kube = Kube(settings.request_seconds)
        self._context = Context(settings, self._cache, kube, prefect, serve, registry, observer)
        self._pipelines = Pipelines()
        self._sync = ServeSync()
        self._retries = inference_deployment.Retries()

    async def run(self) -> None:
        """Work until cancelled. Nothing is decided before every resource has been listed once."""
        context = self._context
        try:
            await self._list_all()
            async with asyncio.TaskGroup() as group:
                group.create_task(context.observer.run())
                group.create_task(self._queue.run())
        finally:
            for client in (context.kube, context.prefect, context.serve, context.registry):
                await client.close()

    def seen(self, body: Body) -> None:
        """A resource is new, has changed, or is listed again."""
        known = self._cache.by_uid(body.uid) is not None
        if self._cache.put(body):
            if not known:
                self._context.observer.note_resource(body.uid)
            self._wake(body.key)

    def gone(self, body: Body) -> None:
        """A resource is deleted for good."""
        self._cache.remove(body)
        self._wake_dependents(body.key)

    async def _list_all(self) -> None:
        namespaces: list[str | None] = [*sorted(self._context.settings.watched)] or [None]
        while True:
            try:
                for kind in KINDS:
                    for namespace in namespaces:
                        for body in await self._context.kube.resources(kind, namespace):
                            self.seen(body)
                return
            except BackendError as error:
                logger.warning("waiting for the Kubernetes API and the resource definitions: %s", error)
                await asyncio.sleep(self._context.settings.poll_seconds)

    def _wake(self, key: Key) -> None:
        self._queue.add(key)
        self._wake_dependents(key)

    def _wake_dependents(self, key: Key) -> None:
        for dependent in dependents(self._cache, key):
            self._queue.add(dependent)

    def _wake_all(self) -> None:
        for key in self._cache.known():
            self._queue.add(key)

    async def reconcile(self, key: Key) -> float | None:
        """Make one resource be what it says; seconds until it is to be looked at again."""
        body = self._cache.get(key)
        if body is None:
            return None
        if body.deleted_at is not None:
            return await self._release(body)
        if FINALIZER not in body.finalizers:
            kept = await self._context.kube.set_finalizers(body, [*body.finalizers, FINALIZER])
            if kept is None:
                return None
            self._cache.put(kept)
            body = kept
        if not self._looked(body):
            return _LOOK_SECONDS
        outcome = await self._reconcile_kind(body)
        await self._write(body, outcome)
        return soonest(outcome.again, self._context.settings.resync_seconds)

    def _looked(self, body: Body) -> bool:
        """Whether enough has been seen to judge: a guess would turn conditions back and forth at every start."""
        bodies = [body]
        if body.key.kind == "InferenceDeployment":
            bodies += [
                found for key in referred(body.spec, body.key.namespace) if (found := self._cache.get(key))
            ]
        return all(self._context.observer.looked(each) for each in bodies)

    async def _reconcile_kind(self, body: Body) -> Outcome:
        if body.key.kind == "KnowledgeBase":
            return await KNOWLEDGE_BASE.reconcile(self._context, self._pipelines, body)
        if body.key.kind == "FineTuneJob":
            return await FINE_TUNE_JOB.reconcile(self._context, self._pipelines, body)
        return await inference_deployment.reconcile(self._context, self._sync, self._retries, body)

    async def _write(self, body: Body, outcome: Outcome) -> None:
        """Write the status if it really changed, and tell about it."""
        now = self._context.now()
        conditions = merge(body.status.get("conditions") or [], outcome.verdicts, body.generation, now)
        if outcome.fields is None:
            new = {**body.status, "observedGeneration": body.generation, "conditions": conditions}
        else:
            new = dump(outcome.fields, conditions)
        patch = merge_patch(body.status, new)
        if not patch:
            return
        written = await self._context.kube.patch_status(body, patch)
        if written is None:
            return
        self._cache.put(written)
        self._wake_dependents(body.key)
        for event in events.transitions(body.key.kind, body.status, new):
            logger.info("%s: %s: %s", body.key, event.reason, event.message)
            await events.record(self._context.kube, body, event, now)

    async def _release(self, body: Body) -> float | None:
        """Clean up, and let the resource go: when all is done, or when a backend has been gone for too long."""
        left = await clean_up(self._context, self._pipelines, self._sync, body)
        if left:
            waited = (self._context.now() - (body.deleted_at or self._context.now())).total_seconds()
            if waited < self._context.settings.deletion_seconds:
                return _CLEAN_UP_SECONDS
            logger.warning("%s: deleted without being cleaned up: %s", body.key, left)
            event = Event("Warning", "CleanUpIncomplete", f"deleted without being cleaned up: {left}")
            await events.record(self._context.kube, body, event, self._context.now())
        self._retries.forget(body.uid)
        others = [name for name in body.finalizers if name != FINALIZER]
        await self._context.kube.set_finalizers(body, others)
        self.gone(body)
        return None
