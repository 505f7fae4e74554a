"""A request in hand: what it holds, and what is settled when it is over, however it ends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from groundtune_services.adapters import Lease
from groundtune_services.citations import annotate_event
from groundtune_services.grounding import Grounding
from groundtune_services.models import Route
from groundtune_services.usage import Usage

_KEY = "groundtune.exchange"


class Exchange:
    """Holds the adapter version until the last byte is sent, and knows what was used by then."""

    def __init__(self, request: Request, route: Route, lease: Lease | None) -> None:
        self.route = route
        self.grounding: Grounding | None = None
        self._request = request
        self._lease = lease
        self._started = time.monotonic()
        self._first_token_ms: float | None = None
        request.scope[_KEY] = self

    async def events(
        self, stream: AsyncIterator[str], annotation: dict[str, Any] | None
    ) -> AsyncIterator[str]:
        """The engine's events, with the annotation in the first."""
        async with aclosing(stream) as events:  # type: ignore[type-var]  # the engine's is a generator
            async for event in events:
                if self._first_token_ms is None:
                    self._first_token_ms = (time.monotonic() - self._started) * 1000
                    if annotation is not None:
                        event = annotate_event(event, annotation)
                yield event

    def usage(self, namespace: str, deployment: str) -> Usage | None:
        """What was used; None when the engine did not finish an answer."""
        metadata = getattr(self._request.state, "request_metadata", None)
        counted = metadata.final_usage_info if metadata is not None else None
        if counted is None:
            return None
        grounding = self.grounding
        return Usage(
            namespace=namespace,
            deployment=deployment,
            model=self.route.name,
            adapter=self.route.adapter,
            corpus_version=next(iter(grounding.corpora.values()), None) if grounding else None,
            prompt_tokens=counted.prompt_tokens,
            completion_tokens=counted.completion_tokens or 0,
            context_tokens=grounding.context_tokens if grounding else 0,
            retrieval_ms=grounding.retrieval_ms if grounding else None,
            first_token_ms=self._first_token_ms,
        )

    def release(self) -> None:
        if self._lease is not None:
            self._lease.release()


class Settling:
    """ASGI middleware that settles a request's exchange after its response, or after its client has gone."""

    def __init__(self, app: ASGIApp, settle: Callable[[Exchange], None]) -> None:
        self._app = app
        self._settle = settle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        finally:
            exchange = scope.get(_KEY)
            if exchange is not None:
                exchange.release()
                self._settle(exchange)
