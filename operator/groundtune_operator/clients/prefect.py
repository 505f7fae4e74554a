"""Prefect's REST API, as far as the operator needs it: deployments, and runs by tag."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx

from groundtune.names import WORK_POOL
from groundtune_operator.clients.http import call
from groundtune_operator.settings import OperatorSettings

TERMINAL = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
_PAGE = 200
#: As Prefect itself counts: a worker that has missed so many heartbeats is offline.
_MISSED_BEATS = 3
_HEARTBEAT_SECONDS = 30
#: A run is Pending for some seconds while its process starts; nobody needs to look for its worker then.
_SETTLING = timedelta(seconds=10)


@dataclass(frozen=True)
class PrefectRun:
    """A flow run as Prefect has it.

    Args:
        late: due for a while, and no worker has taken it.
        orphaned: taken by a worker that was gone before it had started the run's process.
    """

    id: UUID
    uid: str
    state: str
    message: str
    reason: str
    generation: int
    due: datetime
    started: datetime | None
    ended: datetime | None
    changed: datetime
    late: bool
    orphaned: bool = False

    @property
    def terminal(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class Worker:
    """A worker of the work pool, up from `since` until `until`, or longer. Prefect forgets none by itself."""

    since: datetime
    until: datetime


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _run(raw: Mapping[str, Any]) -> PrefectRun:
    state = raw.get("state") or {}
    parameters = raw.get("parameters") or {}
    tags = [tag.removeprefix("uid:") for tag in raw["tags"] if tag.startswith("uid:")]
    due = _time(raw.get("expected_start_time")) or datetime.fromisoformat(raw["created"])
    changed = _time(state.get("timestamp")) or due
    return PrefectRun(
        id=UUID(raw["id"]),
        uid=tags[0] if tags else "",
        state=raw["state_type"] or "PENDING",
        message=" ".join((state.get("message") or "").split()),
        reason=str(parameters.get("reason", "")),
        generation=int((parameters.get("snapshot") or {}).get("generation", 0)),
        due=due,
        started=_time(raw.get("start_time")),
        ended=(_time(raw.get("end_time")) or changed) if raw["state_type"] in TERMINAL else None,
        changed=changed,
        late=raw.get("state_name") == "Late",
    )


def _worker(raw: Mapping[str, Any]) -> Worker:
    since = datetime.fromisoformat(raw["created"])
    beat = timedelta(seconds=raw.get("heartbeat_interval_seconds") or _HEARTBEAT_SECONDS)
    return Worker(since, (_time(raw.get("last_heartbeat_time")) or since) + _MISSED_BEATS * beat)


def is_orphaned(run: PrefectRun, workers: Sequence[Worker], now: datetime) -> bool:
    """Whether every worker that can have taken a run is gone. Prefect itself waits for such a run for ever."""
    if run.state != "PENDING" or now - run.changed < _SETTLING:
        return False
    return not any(worker.since <= run.changed and worker.until >= now for worker in workers)


class Prefect:
    """Calls to Prefect. Every method raises `BackendError` when Prefect does not answer or refuses."""

    def __init__(self, settings: OperatorSettings) -> None:
        user, _, password = settings.prefect_auth_string.get_secret_value().partition(":")
        self._client = httpx.AsyncClient(
            base_url=settings.prefect_api_url,
            auth=(user, password) if user else None,
            timeout=settings.request_seconds,
        )

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()

    async def runs(self, known: Sequence[UUID]) -> list[PrefectRun]:
        """Runs of all resources: those in hand, the newest others that are due, and those of `known` ids."""
        due = {"before_": (datetime.now(UTC) + timedelta(seconds=5)).isoformat()}
        tags = {"all_": ["groundtune"]}
        wanted: list[dict[str, Any]] = [
            {"tags": tags, "state": {"type": {"not_any_": list(TERMINAL)}}, "expected_start_time": due},
            {"tags": tags, "expected_start_time": due},
        ]
        found: dict[UUID, PrefectRun] = {}
        for each in wanted:
            found |= {run.id: run for run in await self._filter(each)}
        missing = [str(id_) for id_ in known if id_ not in found]
        if missing:
            found |= {run.id: run for run in await self._filter({"id": {"any_": missing[:_PAGE]}})}
        return await self._with_orphans(list(found.values()))

    async def _with_orphans(self, runs: list[PrefectRun]) -> list[PrefectRun]:
        now = datetime.now(UTC)
        if not any(is_orphaned(run, (), now) for run in runs):
            return runs
        workers = await self._workers()
        return [replace(run, orphaned=is_orphaned(run, workers, now)) for run in runs]

    async def _workers(self) -> list[Worker]:
        """The workers of the work pool, those that ended long ago among them."""
        raw = await self._call("POST", f"/work_pools/{WORK_POOL}/workers/filter", missing_ok=True, json={})
        return [_worker(each) for each in raw or ()]

    async def unfinished(self, uid: str) -> list[PrefectRun]:
        """Runs of one resource that have not ended, those that the scheduler has made ahead among them."""
        return await self._filter(
            {"tags": {"all_": ["groundtune", f"uid:{uid}"]}, "state": {"type": {"not_any_": list(TERMINAL)}}}
        )

    async def deployment(self, flow: str, name: str) -> dict[str, Any] | None:
        """A deployment, or None."""
        found: dict[str, Any] | None = await self._call(
            "GET", f"/deployments/name/{flow}/{name}", missing_ok=True
        )
        return found

    async def create_deployment(self, flow: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Create a deployment of a flow, which is made known if it is new."""
        flow_id = (await self._call("POST", "/flows/", json={"name": flow}))["id"]
        made: dict[str, Any] = await self._call("POST", "/deployments/", json={"flow_id": flow_id, **fields})
        return made

    async def update_deployment(self, id_: str, fields: Mapping[str, Any]) -> None:
        """Change fields. Prefect drops the runs that its scheduler had made ahead, so do it only for a change."""
        await self._call("PATCH", f"/deployments/{id_}", json=fields)

    async def delete_deployment(self, id_: str) -> None:
        """Remove a deployment and its scheduled runs; one that is gone is fine."""
        await self._call("DELETE", f"/deployments/{id_}", missing_ok=True)

    async def add_schedule(self, deployment: str, schedule: Mapping[str, Any]) -> None:
        await self._call("POST", f"/deployments/{deployment}/schedules", json=[schedule])

    async def update_schedule(self, deployment: str, id_: str, fields: Mapping[str, Any]) -> None:
        await self._call("PATCH", f"/deployments/{deployment}/schedules/{id_}", json=fields)

    async def delete_schedule(self, deployment: str, id_: str) -> None:
        await self._call("DELETE", f"/deployments/{deployment}/schedules/{id_}", missing_ok=True)

    async def start_run(
        self, deployment: str, key: str, name: str, parameters: Mapping[str, Any]
    ) -> PrefectRun:
        """Start a run now, or find the one that the same idempotency key has started before."""
        fields = {"idempotency_key": key, "name": name, "parameters": parameters}
        return _run(await self._call("POST", f"/deployments/{deployment}/create_flow_run", json=fields))

    async def set_state(self, run: UUID, state: str, message: str) -> None:
        """Move a run to CANCELLING, CANCELLED or CRASHED, whatever Prefect's own rules would say."""
        body = {"state": {"type": state, "name": state.capitalize(), "message": message}, "force": True}
        await self._call("POST", f"/flow_runs/{run}/set_state", missing_ok=True, json=body)

    async def _filter(self, flow_runs: Mapping[str, Any]) -> list[PrefectRun]:
        body = {"flow_runs": flow_runs, "sort": "EXPECTED_START_TIME_DESC", "limit": _PAGE}
        return [_run(raw) for raw in await self._call("POST", "/flow_runs/filter", json=body)]

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        return await call(self._client, "Prefect", method, path, **options)
