"""What the clients of HTTP backends share: one error type with one clear line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import httpx

_LINE = 500


class BackendError(Exception):
    """A backend does not answer, or refuses. `status` is its HTTP status, 0 if there was no answer."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


async def call(
    client: httpx.AsyncClient,
    backend: str,
    method: str,
    path: str,
    *,
    missing_ok: bool = False,
    **options: Any,
) -> Any:
    """The answer's JSON; None for an empty answer, and for a 404 if `missing_ok`.

    Raises:
        BackendError: no answer, or a status that is not 2xx.
    """
    try:
        response = await client.request(method, path, **options)
    except httpx.HTTPError as error:
        raise BackendError(f"{backend} at {client.base_url} does not answer: {cause(error)}") from error
    if response.status_code == 404 and missing_ok:
        return None
    if not response.is_success:
        raise BackendError(
            f"{backend} answered {response.status_code}: {_detail(response)}", response.status_code
        )
    return response.json() if response.content else None


def cause(error: BaseException) -> str:
    """An exception in a few words, also when it has no text of its own."""
    return str(error).strip() or type(error).__name__


def _detail(response: httpx.Response) -> str:
    """The error's own words, wherever the backend puts them."""
    try:
        body = response.json()
    except json.JSONDecodeError:
        return " ".join(response.text.split())[:_LINE]
    if isinstance(body, Mapping):
        for name in ("detail", "message", "exception_message", "msg"):
            if body.get(name):
                body = body[name]
                break
    return (body if isinstance(body, str) else json.dumps(body))[:_LINE]
