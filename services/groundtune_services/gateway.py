"""The endpoint of one replica: OpenAI's routes around the engine, grounded and cited."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.serve.engine.protocol import ErrorResponse

from groundtune.retrieval.corpus import search_pool
from groundtune.serving import EngineArgs, Readiness, ServedSet
from groundtune.settings import Settings
from groundtune_services import errors, vector_stores
from groundtune_services.adapters import Adapters
from groundtune_services.citations import FIELD, annotation, headers
from groundtune_services.engine import BASE, Engine, requested_model
from groundtune_services.exchange import Exchange, Settling
from groundtune_services.grounding import Grounding, grounded
from groundtune_services.knowledge import Knowledge
from groundtune_services.models import Route, routes
from groundtune_services.readiness import Throttled, decide
from groundtune_services.usage import UsageWriter

_log = logging.getLogger(__name__)

_RETRIEVAL_SECONDS = 2.0
_CONNECTIONS = 8

Result = TypeVar("Result")


class Gateway:
    """What a replica has, and the routes over it."""

    def __init__(self, args: EngineArgs, settings: Settings, engine: Engine) -> None:
        self._args = args
        self._engine = engine
        self._served = ServedSet()
        self._created = int(time.time())
        self._pool = search_pool(settings.database_url.get_secret_value(), _CONNECTIONS)
        self._adapters = Adapters(engine, settings.artifacts)
        self._knowledge = Knowledge(self._pool, settings.models, _RETRIEVAL_SECONDS)
        self._probe = Throttled(self._knowledge.probe)
        self.app = FastAPI(
            title="Groundtune", openapi_url=None, docs_url=None, redoc_url=None, lifespan=self._lifespan
        )
        errors.install(self.app)
        self.app.add_middleware(Settling, settle=self._settle)
        self.app.post("/v1/chat/completions", response_model=None)(self.chat_completions)
        self.app.post("/v1/completions", response_model=None)(self.completions)
        self.app.get("/v1/models")(self.models)
        self.app.get("/v1/models/{name}")(self.model)
        self.app.get("/health")(self.health)
        self.app.get("/ready")(self.ready)
        self.app.get("/metrics")(self.metrics)
        self.app.include_router(vector_stores.router(self._knowledge, self._pool))

    def declare(self, served: ServedSet) -> None:
        """What to serve from now on; returns at once, and traffic goes on meanwhile."""
        self._served = served
        self._knowledge.declare(served.knowledge_bases)
        self._adapters.declare(served.adapters)
        self._probe.forget()

    async def settle(self, seconds: float) -> None:
        """Wait until what is declared is loaded, or has failed to load, or so many seconds are over."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(self._adapters.settled(), self._knowledge.settled())

    # -- routes ---------------------------------------------------------------------------------------------------

    async def chat_completions(self, body: ChatCompletionRequest, request: Request) -> Response:
        exchange = self._admit(body, request)
        route = exchange.route
        exchange.grounding = grounding = await self._ground(route, body)
        body.messages = list(grounding.messages)
        answer = await _until_gone(request, self._engine.chat.create_chat_completion(body, request))
        if isinstance(answer, ErrorResponse):
            return self._refused(answer)
        said = annotation(route.adapter, grounding.corpora, grounding.passages)
        head = headers(
            route.adapter,
            grounding.corpora,
            retrieval_ms=grounding.retrieval_ms,
            context_tokens=grounding.context_tokens,
            lacking=self._lacking(route, grounding),
        )
        if body.stream:
            return _event_stream(exchange.events(answer, said), head)
        return JSONResponse({**answer.model_dump(), FIELD: said}, headers=head)

    async def completions(self, body: CompletionRequest, request: Request) -> Response:
        exchange = self._admit(body, request)
        answer = await _until_gone(request, self._engine.completion.create_completion(body, request))
        if isinstance(answer, ErrorResponse):
            return self._refused(answer)
        head = {"x-groundtune-adapter": exchange.route.adapter or "none"}
        if body.stream:
            return _event_stream(exchange.events(answer, None), head)
        return JSONResponse(answer.model_dump(), headers=head)

    async def models(self) -> dict[str, Any]:
        return {"object": "list", "data": [self._card(route) for route in self._routes().values()]}

    async def model(self, name: str) -> dict[str, Any]:
        known = self._routes()
        if name not in known:
            raise errors.model_not_found(name, list(known))
        return self._card(known[name])

    async def health(self) -> Response:
        error = self._engine.error
        return PlainTextResponse(error or "ok", status_code=503 if error else 200)

    async def ready(self) -> JSONResponse:
        readiness = await self.readiness()
        return JSONResponse(
            readiness.model_dump(mode="json", by_alias=True), status_code=200 if readiness.ready else 503
        )

    async def metrics(self) -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)

    # -- parts ----------------------------------------------------------------------------------------------------

    async def readiness(self) -> Readiness:
        """The engine's proofs, and a knowledge probe that is at most a second old."""
        knowledge = await self._probe()
        return decide(
            list(self._routes()),
            self._adapters.readiness(),
            knowledge,
            self._served.unmet,
            engine_error=self._engine.error,
        )

    def _lacking(self, route: Route, grounding: Grounding) -> list[str]:
        """What the answer should have, and has not."""
        unmet = [each for each in self._served.unmet if each.answers]
        own = route.name == self._args.served_name
        declared = bool(self._served.adapters) or any(each.kind == "adapter" for each in unmet)
        lacking = ["adapter"] if own and declared and route.adapter is None else []
        wanted = own and any(each.kind == "knowledge base" for each in unmet)
        return [*lacking, "retrieval"] if grounding.degraded or wanted else lacking

    def _routes(self) -> dict[str, Route]:
        return routes(
            self._args.served_name,
            adapter=self._adapters.answering,
            grounded=bool(self._knowledge.grounding),
        )

    def _admit(self, body: ChatCompletionRequest | CompletionRequest, request: Request) -> Exchange:
        """Find out what answers, hold on to it, and name it to the engine."""
        if self._engine.error:
            raise errors.engine_is_dead()
        known = self._routes()
        name = body.model or self._args.served_name
        route = known.get(name)
        if route is None:
            raise errors.model_not_found(name, list(known))
        lease = self._adapters.lease(route.adapter) if route.adapter else None
        requested_model.set(name)
        body.model = route.adapter or BASE
        return Exchange(request, route, lease)

    def _refused(self, answer: ErrorResponse) -> Response:
        return errors.engine_is_dead().response() if self._engine.error else errors.refused(answer)

    async def _ground(self, route: Route, body: ChatCompletionRequest) -> Grounding:
        if not route.grounded:
            return Grounding(body.messages)
        return await grounded(
            self._knowledge,
            body.messages,
            tools=[tool.model_dump() for tool in body.tools or ()],
            answer_tokens=body.max_completion_tokens or body.max_tokens,
            instruction=self._served.prompt.instruction,
            window=self._engine.max_model_len,
            count_tokens=self._engine.count_tokens,
        )

    def _card(self, route: Route) -> dict[str, Any]:
        return {
            "id": route.name,
            "object": "model",
            "created": self._created,
            "owned_by": "groundtune",
            "root": self._args.model.uri,
            "max_model_len": self._args.engine.max_model_len,
            FIELD: {"adapter": route.adapter or "none", "grounded": route.grounded},
        }

    def _settle(self, exchange: Exchange) -> None:
        used = exchange.usage(self._args.namespace, self._args.name)
        if used is not None:
            self._usage.record(used)

    @asynccontextmanager
    async def _lifespan(self, _app: FastAPI) -> AsyncIterator[None]:
        await self._pool.open(wait=False)
        self._usage = UsageWriter(self._pool)
        try:
            yield
        finally:
            await self._usage.close()
            await self._adapters.close()
            await self._knowledge.close()
            await self._pool.close()
            self._engine.shutdown()


def _event_stream(events: AsyncIterator[str], head: dict[str, str]) -> StreamingResponse:
    return StreamingResponse(events, media_type="text/event-stream", headers=head)


async def _until_gone(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work; when the client goes away, stop it, so that the engine does not answer nobody.

    Raises:
        ApiError: the client is gone; nobody reads it.
    """
    working = asyncio.create_task(work)
    leaving = asyncio.create_task(_gone(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise errors.ApiError(499, "the client closed the connection")
    finally:
        working.cancel()
        leaving.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
