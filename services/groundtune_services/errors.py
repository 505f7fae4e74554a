"""Every failure in OpenAI's error body."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.engine.protocol import ErrorResponse
from vllm.exceptions import VLLMError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

#: What it raises for a request, by its documentation of `create_error_response`.
_OF_THE_ENGINE = (
    VLLMError,
    EngineDeadError,
    EngineGenerateError,
    ValueError,
    TypeError,
    OverflowError,
    NotImplementedError,
)

#: After so long, clients that honour Retry-After find another replica, or wait in Serve's queue for the new one.
_REPLACED_SECONDS = 10


class ApiError(Exception):
    """A refusal that the client reads."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        """`retry_after`: seconds after which the same request may succeed."""
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return JSONResponse(self.body(), status_code=self.status, headers=headers)


def model_not_found(name: str, known: list[str]) -> ApiError:
    """The `model` of a request is none of ours."""
    return ApiError(
        404,
        f"The model `{name}` does not exist. This endpoint serves: {', '.join(known)}.",
        code="model_not_found",
        param="model",
    )


def engine_is_dead() -> ApiError:
    """The engine's process has ended; the replica is about to be replaced."""
    return ApiError(
        503,
        "The engine has died and is being replaced. Please try again in a minute.",
        code="engine_unavailable",
        retry_after=_REPLACED_SECONDS,
    )


def install(app: FastAPI) -> None:
    """Add the handlers, in place of the engine's own, whose bodies have other types and codes."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    for error in (*_OF_THE_ENGINE, Exception):
        app.add_exception_handler(error, _engine_error)


async def _api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(400, "The request body is not valid JSON.").response()
    where = ".".join(str(part) for part in first["loc"][1:])
    message = f"{where}: {first['msg']}" if where else str(first["msg"])
    return ApiError(400, message, param=where or None).response()


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    message = str(error.detail)
    if error.status_code in (404, 405):
        message = f"Invalid URL ({request.method} {request.url.path})"
    response = ApiError(error.status_code, message).response()
    response.headers.update(error.headers or {})
    return response


async def _engine_error(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, EngineDeadError):
        return engine_is_dead().response()
    return refused(create_error_response(error))


def refused(answer: ErrorResponse) -> JSONResponse:
    """What the engine refuses, with its status and message."""
    said = answer.error
    return ApiError(said.code, said.message, param=said.param).response()
