"""Ray Serve's REST API, and the applications' own `/ready`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic import ValidationError

from groundtune.serving import Readiness
from groundtune_operator.clients.http import BackendError, call, cause
from groundtune_operator.settings import OperatorSettings

_PATH = "/api/serve/applications/"


@dataclass(frozen=True)
class Application:
    """An application as Serve has it. `config` is what was last put for it; None for one made otherwise."""

    name: str
    status: str
    message: str
    config: dict[str, Any] | None
    replicas: int = 0
    troubles: tuple[str, ...] = field(default=())


def applications(raw: Mapping[str, Any]) -> dict[str, Application]:
    """Serve's answer, by application name."""
    found = {}
    for name, each in (raw.get("applications") or {}).items():
        deployments = (each.get("deployments") or {}).values()
        states = [replica.get("state") for one in deployments for replica in one.get("replicas") or []]
        found[name] = Application(
            name=name,
            status=each.get("status", ""),
            message=each.get("message") or "",
            config=each.get("deployed_app_config"),
            replicas=states.count("RUNNING"),
            troubles=tuple(one["message"] for one in deployments if one.get("message")),
        )
    return found


class Serve:
    """Calls to Serve. Every method but `ready` raises `BackendError` when Serve does not answer or refuses."""

    def __init__(self, settings: OperatorSettings) -> None:
        token = settings.ray_auth_token.get_secret_value()
        self._dashboard = httpx.AsyncClient(
            base_url=settings.ray_dashboard_url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=settings.request_seconds,
        )
        self._starts_serve = settings.starts_serve
        self._endpoint = httpx.AsyncClient(base_url=settings.serve_url, timeout=settings.request_seconds)

    async def close(self) -> None:
        """Give the connections back."""
        await self._dashboard.aclose()
        await self._endpoint.aclose()

    async def applications(self) -> dict[str, Application]:
        """Every application, by name."""
        raw = await call(self._dashboard, "Ray Serve", "GET", _PATH) or {}
        if not self._starts_serve and not raw.get("proxies"):
            raise BackendError("Ray Serve is not up yet")
        return applications(raw)

    async def put(self, config: Mapping[str, Any]) -> None:
        """Make the applications be those of `config`; any that it leaves out is removed."""
        await call(self._dashboard, "Ray Serve", "PUT", _PATH, json=config)

    async def ready(self, route_prefix: str) -> Readiness | str:
        """What the application says of itself, or why it can't be asked."""
        try:
            response = await self._endpoint.get(f"{route_prefix}/ready")
        except httpx.HTTPError as error:
            return f"/ready does not answer: {cause(error)}"
        if response.status_code not in (200, 503):
            return f"/ready answered {response.status_code}"
        try:
            said = Readiness.model_validate_json(response.content)
        except ValidationError:
            return f"/ready answered {response.status_code}, but not with a readiness report"
        return said.model_copy(update={"ready": said.ready and response.status_code == 200})


__all__ = ["Application", "BackendError", "Serve", "applications"]
