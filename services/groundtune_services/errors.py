"""Every failure in OpenAI's error body."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from vllm.entrypoints.serve import create_error_response
from vllm.entrypoints.serve.exception_handling.register import init_exception_handler
from vllm.exceptions import VLLMError
from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError


class ApiError(Exception):
    """A refusal that the client reads."""

    def __init__(
        self, status: int, message: str, *, code: str | None = None, param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        kind = "invalid_request_error" if self.status < 500 else "server_error"
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        return JSONResponse(self.body(), status_code=self.status)


def model_not_found(name: str, known: list[str]) -> ApiError:
    """The `model` of a request is none of ours."""
    return ApiError(
        404,
        f"The model `{name}` does not exist. This endpoint serves: {', '.join(known)}.",
        code="model_not_found",
        param="model",
    )


def install(app: FastAPI) -> None:
    """Add the handlers: the engine's own, then ours for what they leave in other shapes."""
    init_exception_handler(app)
    # The engine's handlers read their server's command line; a stack in the log may hold a prompt.
    app.state.args = SimpleNamespace(log_error_stack=False)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(VLLMError, _engine_error)
    app.add_exception_handler(EngineDeadError, _engine_error)
    app.add_exception_handler(EngineGenerateError, _engine_error)


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
    # Not the engine's own handler: that one stops a server that is not there. Serve replaces the replica instead.
    said = create_error_response(error).error
    return ApiError(said.code, said.message, param=said.param).response()
