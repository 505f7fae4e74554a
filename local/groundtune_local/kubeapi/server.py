"""The ASGI application: HTTP on the outside, the modules beside it on the inside."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from groundtune_local.kubeapi import discovery, errors, openapi
from groundtune_local.kubeapi.builtins import NAMESPACE_FINALIZER
from groundtune_local.kubeapi.collector import Collector
from groundtune_local.kubeapi.errors import ApiError
from groundtune_local.kubeapi.handlers import Handlers, content_type
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.requests import parse_object
from groundtune_local.kubeapi.resources import NAMESPACES, Registry
from groundtune_local.kubeapi.reviews import review
from groundtune_local.kubeapi.served import DefinitionsFollower
from groundtune_local.kubeapi.store import Key, Store
from groundtune_local.kubeapi.writes import WriteOptions, Writer

_LOG = logging.getLogger(__name__)
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]
_OPEN_PATHS = {"/healthz", "/livez", "/readyz", "/version"}
_NAMESPACES_AT_START = ("default", "kube-system")
# The Kubernetes release whose API the answers follow; clients compare it with their own.
_VERSION = {"major": "1", "minor": "36", "gitVersion": "v1.36.0+groundtune", "platform": "local/python"}


class ControlPlane:
    """The application and what belongs to it. ``closing`` ends its watches when it is set."""

    def __init__(self, store: Store, token: str) -> None:
        self.store = store
        self.registry = Registry()
        self.closing = asyncio.Event()
        self._writer = Writer(store, self.registry)
        self._collector = Collector(store, self.registry, self._writer)
        follower = DefinitionsFollower(store, self.registry)
        follower.load()
        self._writer.listeners = [follower, self._collector]
        self._ensure_namespaces()
        self._collector.recover()
        self._handlers = Handlers(store, self.registry, self._writer, self.closing)
        self.app: ASGIApp = _TokenCheck(self._starlette(), token)

    def close(self) -> None:
        """End all watches, and take no new ones."""
        self.closing.set()
        self.store.wake_all()

    def _ensure_namespaces(self) -> None:
        for name in _NAMESPACES_AT_START:
            if self.store.get(Key(NAMESPACES.qualified, "", name)) is None:
                body: Obj = {"metadata": {"name": name}, "spec": {"finalizers": [NAMESPACE_FINALIZER]}}
                self._writer.create(NAMESPACES, "", body, WriteOptions(manager="local-control-plane"))

    def _starlette(self) -> Starlette:
        routes = [
            *(Route(path, self._health) for path in ("/healthz", "/livez", "/readyz")),
            Route("/version", self._version),
            Route("/api", self._api),
            Route("/apis", self._apis),
            Route("/api/v1", self._resources),
            Route("/apis/{group}", self._group),
            Route("/apis/{group}/{version}", self._resources),
            Route("/openapi/v2", self._openapi_v2),
            Route("/openapi/v3", self._openapi_v3),
            Route("/openapi/v3/{path:path}", self._openapi_v3_version),
            *(
                Route(f"/apis/{g}/{v}/{plural}", self._review, methods=["POST"])
                for g, v, plural, _ in discovery.REVIEWS
            ),
            Route("/{path:path}", self._objects, methods=_METHODS),
        ]
        handlers = {ApiError: _refused, Exception: _failed}
        return Starlette(routes=routes, exception_handlers=handlers, lifespan=self._lifespan)  # type: ignore[arg-type]

    @asynccontextmanager
    async def _lifespan(self, _: Starlette) -> AsyncIterator[None]:
        tasks = [
            asyncio.create_task(self._collector.run()),
            asyncio.create_task(self._collector.expire_events()),
        ]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _health(self, _: Request) -> Response:
        return Response("ok", media_type="text/plain")

    async def _version(self, _: Request) -> Response:
        return _json(_VERSION)

    async def _api(self, request: Request) -> Response:
        if _wants_aggregated(request):
            return _json(discovery.aggregated(self.registry, core=True), media_type=discovery.AGGREGATED)
        return _json(discovery.core_versions())

    async def _apis(self, request: Request) -> Response:
        if _wants_aggregated(request):
            return _json(discovery.aggregated(self.registry, core=False), media_type=discovery.AGGREGATED)
        return _json(discovery.group_list(self.registry))

    async def _group(self, request: Request) -> Response:
        return _found(request, discovery.group(self.registry, request.path_params["group"]))

    async def _resources(self, request: Request) -> Response:
        group, version = request.path_params.get("group", ""), request.path_params.get("version", "v1")
        return _found(request, discovery.resource_list(self.registry, group, version))

    async def _openapi_v2(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        if accept and "json" not in accept and "*/*" not in accept:
            raise errors.not_acceptable(
                "the local control plane gives OpenAPI documents as application/json only"
            )
        return _json(openapi.v2_document(self.registry))

    async def _openapi_v3(self, _: Request) -> Response:
        return _json(openapi.v3_root(self.registry))

    async def _openapi_v3_version(self, request: Request) -> Response:
        prefix, *rest = request.path_params["path"].split("/")
        group, version = ("", rest[0]) if prefix == "api" and len(rest) == 1 else (rest[0], rest[-1])
        return _found(request, openapi.v3_document(self.registry, group, version))

    async def _review(self, request: Request) -> Response:
        body = parse_object(await request.body(), content_type(request))
        return _json(review(request.url.path.rpartition("/")[2], body), status=201)

    async def _objects(self, request: Request) -> Response:
        answer = await self._handlers.answer(request)
        if isinstance(answer.body, dict):
            response = _json(answer.body, status=answer.status)
        else:
            response = StreamingResponse(answer.body, media_type="application/json")
        for warning in answer.warnings:
            text = warning.replace("\\", "\\\\").replace('"', '\\"')
            response.headers.append("warning", f'299 - "{text}"')
        return response


class _TokenCheck:
    """Lets requests through that carry the token, and those that need none."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app = app
        self._expected = f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in _OPEN_PATHS:
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                refusal = ApiError(401, "Unauthorized", "Unauthorized")
                await _json(refusal.status(), status=401)(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _json(body: object, *, status: int = 200, media_type: str = "application/json") -> Response:
    return Response(orjson.dumps(body), status_code=status, media_type=media_type)


def _found(request: Request, body: Obj | None) -> Response:
    if body is None:
        raise errors.not_served(request.url.path)
    return _json(body)


def _wants_aggregated(request: Request) -> bool:
    choices = [choice.replace(" ", "") for choice in request.headers.get("accept", "").split(",")]
    return any("as=APIGroupDiscoveryList" in choice and "v=v2;" in f"{choice};" for choice in choices)


async def _refused(_: Request, exc: ApiError) -> Response:
    return _json(exc.status(), status=exc.code)


async def _failed(request: Request, exc: Exception) -> Response:
    _LOG.error("%s %s failed", request.method, request.url.path, exc_info=exc)
    problem = ApiError(500, "InternalError", f"Internal error occurred: {type(exc).__name__}: {exc}")
    return _json(problem.status(), status=500)
