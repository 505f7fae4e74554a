"""One look at each backend for all resources together. It keeps what it saw, and wakes those that it concerns."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from groundtune.names import application_name, route_prefix
from groundtune.registry.facts import ResourceFacts
from groundtune.registry.tables import RunState
from groundtune.serving import Readiness
from groundtune_operator.cache import Body, Cache, Key
from groundtune_operator.clients.http import BackendError
from groundtune_operator.clients.prefect import Prefect, PrefectRun
from groundtune_operator.clients.registry import Registry
from groundtune_operator.clients.serve import Application, Serve
from groundtune_operator.settings import OperatorSettings

logger = logging.getLogger(__name__)

_NOTIFICATION_BATCH = 0.1
_UNREADY_SECONDS = 2.0
_READY_SECONDS = 10.0


@dataclass
class Health:
    """Whether a backend answers. One missed answer is noise; before the first answer it counts as missing."""

    name: str
    error: str | None = "not reached yet"
    misses: int = 0
    tried: bool = False

    def saw(self, error: str | None) -> bool:
        """Take a result in; True if the state changed."""
        before = self.error
        self.tried = True
        self.misses = 0 if error is None else self.misses + 1
        if error is None or before is not None or self.misses > 1:
            self.error = error
        if (before is None) != (self.error is None):
            logger.log(
                logging.INFO if self.error is None else logging.WARNING,
                "%s: %s",
                self.name,
                error or "answers",
            )
            return True
        return False


class Observer:
    """What was last seen of Prefect, Serve and the registry.

    Args:
        wake: called with the key of a resource that has news.
        wake_all: called when a backend comes or goes.
    """

    def __init__(
        self,
        settings: OperatorSettings,
        cache: Cache,
        registry: Registry,
        prefect: Prefect,
        serve: Serve,
        wake: Callable[[Key], None],
        wake_all: Callable[[], None],
    ) -> None:
        self._settings, self._cache = settings, cache
        self._registry, self._prefect, self._serve = registry, prefect, serve
        self._wake, self._wake_all = wake, wake_all
        self.registry = Health("registry")
        self.prefect = Health("Prefect")
        self.serve = Health("Ray Serve")
        self._facts: dict[str, ResourceFacts] = {}
        self._runs: dict[UUID, PrefectRun] = {}
        self._lost: set[UUID] = set()
        self._noted: dict[str, UUID] = {}
        self._silent: dict[UUID, datetime] = {}
        self._applications: dict[str, Application] = {}
        self._readiness: dict[Key, Readiness | str] = {}
        self._probe_at: dict[Key, float] = {}
        self._changed: set[str] = set()
        self._facts_wanted = asyncio.Event()
        self._serve_wanted = asyncio.Event()

    # What was seen.

    def facts(self, uid: str) -> ResourceFacts | None:
        """What the registry last said; None if it has not said anything yet."""
        return self._facts.get(uid)

    def runs(self, uid: str) -> dict[UUID, PrefectRun]:
        """What Prefect last said of a resource's runs."""
        return {id_: run for id_, run in self._runs.items() if run.uid == uid}

    @property
    def lost(self) -> Set[UUID]:
        """Runs that are recorded as running, and that Prefect does not know."""
        return self._lost

    @property
    def silent(self) -> Mapping[UUID, datetime]:
        """Runs that are recorded as running, but neither hold their lock nor make progress: since when."""
        return self._silent

    def application(self, key: Key) -> Application | None:
        """What Serve last said of an InferenceDeployment's application."""
        return self._applications.get(application_name(key.namespace, key.name))

    def readiness(self, key: Key) -> Readiness | str | None:
        """What the application last said, or why it could not be asked; None if it was not asked yet."""
        return self._readiness.get(key)

    def looked(self, body: Body) -> bool:
        """Whether every backend that matters for a resource has been looked at since the operator started."""
        if not self.registry.tried or (self.registry.error is None and body.uid not in self._facts):
            return False
        if body.key.kind != "InferenceDeployment":
            return self.prefect.tried
        unasked = self.application(body.key) is not None and body.key not in self._readiness
        return self.serve.tried and not unasked

    # What the operator did itself, so that it need not wait to see it.

    def note_run(self, run: PrefectRun) -> None:
        """A run that has just been started."""
        self._runs[run.id] = run
        self._noted[run.uid] = run.id

    def note_applications(self) -> None:
        """The Serve config has just been written."""
        self._probe_at.clear()
        self._serve_wanted.set()

    def note_resource(self, uid: str) -> None:
        """A resource is new: read its facts at once."""
        self._changed.add(uid)
        self._facts_wanted.set()

    # The loops.

    async def run(self) -> None:
        """Look until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._watch_registry())
            group.create_task(self._watch_prefect())
            group.create_task(self._watch_serve())

    async def _listen(self) -> None:
        while True:
            try:
                async for uid in self._registry.changes():
                    if uid:
                        self.note_resource(uid)
            except BackendError as error:
                logger.debug("no notifications, only polls: %s", error)
            await asyncio.sleep(self._settings.poll_seconds)

    async def _watch_registry(self) -> None:
        loop = asyncio.get_running_loop()
        everything_at = 0.0
        while True:
            whole = loop.time() >= everything_at
            uids = self._cache.uids() if whole else [uid for uid in self._changed if self._cache.by_uid(uid)]
            self._changed.clear()
            self._facts_wanted.clear()
            if whole:
                everything_at = loop.time() + self._settings.poll_seconds
            await self._read_facts(uids, whole)
            try:
                await asyncio.wait_for(self._facts_wanted.wait(), max(0.0, everything_at - loop.time()))
                await asyncio.sleep(_NOTIFICATION_BATCH)
            except TimeoutError:
                continue

    async def _read_facts(self, uids: list[str], whole: bool) -> None:
        try:
            found = await self._registry.facts(uids)
        except BackendError as error:
            self._report(self.registry, str(error))
            return
        self._listen_for_silence(found)
        news = [uid for uid, facts in found.items() if self._facts.get(uid) != facts]
        self._facts = found if whole else self._facts | found
        self._report(self.registry, None)
        self._wake_uids(news)

    def _listen_for_silence(self, found: Mapping[str, ResourceFacts]) -> None:
        now = datetime.now(UTC)
        for uid, facts in found.items():
            before = {run.id: run for run in self._facts[uid].runs} if uid in self._facts else {}
            for run in facts.runs:
                if run.state is not RunState.RUNNING or facts.locked or before.get(run.id) != run:
                    self._silent.pop(run.id, None)
                if run.state is RunState.RUNNING and not facts.locked:
                    self._silent.setdefault(run.id, now)

    async def _watch_prefect(self) -> None:
        while True:
            try:
                recorded = self._recorded_running()
                found = {run.id: run for run in await self._prefect.runs([*recorded, *self._noted.values()])}
            except BackendError as error:
                self._report(self.prefect, str(error))
            else:
                news = {run.uid for run in found.values() if self._runs.get(run.id) != run}
                news |= {run.uid for id_, run in self._runs.items() if id_ not in found}
                self._runs = found
                self._lost = set(recorded) - set(found)
                self._report(self.prefect, None)
                self._wake_uids(news)
            await asyncio.sleep(self._settings.poll_seconds)

    def _recorded_running(self) -> list[UUID]:
        return [
            run.id for facts in self._facts.values() for run in facts.runs if run.state is RunState.RUNNING
        ]

    async def _watch_serve(self) -> None:
        while True:
            self._serve_wanted.clear()
            await self._read_applications()
            keys = [
                body.key for body in self._cache.of_kind("InferenceDeployment") if body.deleted_at is None
            ]
            await self._probe(keys)
            unready = any(not _ready(self._readiness.get(key)) for key in keys)
            try:
                await asyncio.wait_for(
                    self._serve_wanted.wait(), _UNREADY_SECONDS if unready else self._settings.poll_seconds
                )
            except TimeoutError:
                continue

    async def _read_applications(self) -> None:
        try:
            found = await self._serve.applications()
        except BackendError as error:
            self._report(self.serve, str(error))
            return
        before, self._applications = self._applications, found
        self._report(self.serve, None)
        for body in self._cache.of_kind("InferenceDeployment"):
            name = application_name(body.key.namespace, body.key.name)
            if before.get(name) != found.get(name):
                self._wake(body.key)

    async def _probe(self, keys: list[Key]) -> None:
        now = asyncio.get_running_loop().time()
        self._readiness = {key: said for key, said in self._readiness.items() if key in keys}
        due = [
            key for key in keys if now >= self._probe_at.get(key, 0.0) and self.application(key) is not None
        ]
        answers = await asyncio.gather(
            *(self._serve.ready(route_prefix(key.namespace, key.name)) for key in due)
        )
        for key, said in zip(due, answers, strict=True):
            self._probe_at[key] = now + (_READY_SECONDS if _ready(said) else _UNREADY_SECONDS)
            if self._readiness.get(key) != said:
                self._readiness[key] = said
                self._wake(key)

    def _report(self, health: Health, error: str | None) -> None:
        if health.saw(error):
            self._wake_all()

    def _wake_uids(self, uids: Iterable[str]) -> None:
        for uid in uids:
            body = self._cache.by_uid(uid)
            if body is not None:
                self._wake(body.key)


def _ready(said: Readiness | str | None) -> bool:
    return isinstance(said, Readiness) and said.ready
