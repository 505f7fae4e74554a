"""The few calls to the Kubernetes API that the operator makes beside kopf's watches, with kopf's own credentials."""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import kopf

from groundtune.api import API_VERSION, Resource
from groundtune_operator.cache import PLURAL_OF_KIND, Body, Key
from groundtune_operator.clients.http import BackendError, call

logger = logging.getLogger(__name__)

_LOGIN = threading.Lock()
_MERGE_PATCH = {"Content-Type": "application/merge-patch+json"}
_PAGE = 500


def login(**options: Any) -> kopf.ConnectionInfo | None:
    """Credentials as the official client finds them: the pod's own, else the kubeconfig's current context."""
    # The client hands out the file of a kubeconfig's certificate before it has written it, and kopf and the
    # operator's own calls ask at the same time.
    with _LOGIN:
        return kopf.login_via_client(**options)


def _credentials() -> kopf.ConnectionInfo:
    found = login(logger=logger, settings=kopf.OperatorSettings())
    if found is None:
        raise BackendError("no credentials for the Kubernetes API: neither in a cluster nor in a kubeconfig")
    return found


def _client(info: kopf.ConnectionInfo, timeout: float) -> httpx.AsyncClient:
    context = ssl.create_default_context(cafile=None if info.ca_path is None else str(info.ca_path))
    if info.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if info.certificate_path is not None:
        context.load_cert_chain(str(info.certificate_path), str(info.private_key_path))
    headers = {}
    if info.token:
        headers["Authorization"] = f"{info.scheme or 'Bearer'} {info.token}"
    elif info.username is not None:
        pair = base64.b64encode(f"{info.username}:{info.password}".encode()).decode()
        headers["Authorization"] = f"Basic {pair}"
    return httpx.AsyncClient(base_url=info.server, headers=headers, verify=context, timeout=timeout)


class Kube:
    """Calls to the API server. Credentials are read again when it no longer takes them."""

    def __init__(self, timeout: float, credentials: Callable[[], kopf.ConnectionInfo] = _credentials) -> None:
        self._timeout = timeout
        self._credentials = credentials
        self._open: httpx.AsyncClient | None = None

    async def close(self) -> None:
        """Give the connections back."""
        if self._open is not None:
            await self._open.aclose()
            self._open = None

    async def resources(self, kind: type[Resource], namespace: str | None) -> list[Body]:
        """Every resource of a kind, in one namespace or (None) in all."""
        found: list[Body] = []
        scope = "" if namespace is None else f"/namespaces/{namespace}"
        token = ""
        while True:
            page = await self._call(
                "GET",
                f"/apis/{API_VERSION}{scope}/{kind.plural}",
                params={"limit": _PAGE} | ({"continue": token} if token else {}),
            )
            meta = {"apiVersion": API_VERSION, "kind": kind.kind_name}
            found += [Body(meta | item) for item in page["items"]]
            token = page["metadata"].get("continue") or ""
            if not token:
                return found

    async def patch_status(self, body: Body, patch: Mapping[str, Any]) -> Body | None:
        """Change the status; None if the resource is gone or another one has its name."""
        return await self._patch(body, f"{_path(body.key)}/status", {"status": patch})

    async def set_finalizers(self, body: Body, finalizers: list[str]) -> Body | None:
        """Replace the finalizers, if nobody has changed the resource since `body`; None if it is gone."""
        metadata = {"finalizers": finalizers, "resourceVersion": body.version}
        return await self._patch(body, _path(body.key), {"metadata": metadata})

    async def record_event(self, event: Mapping[str, Any]) -> None:
        """Create a core/v1 Event; one that is there already is counted up instead."""
        metadata = event["metadata"]
        collection = f"/api/v1/namespaces/{metadata['namespace']}/events"
        try:
            await self._call("POST", collection, json=event)
        except BackendError as error:
            if error.status != 409:
                raise
            path = f"{collection}/{metadata['name']}"
            old = await self._call("GET", path)
            again = {"count": int(old.get("count") or 1) + 1, "lastTimestamp": event["lastTimestamp"]}
            await self._call("PATCH", path, headers=_MERGE_PATCH, json=again)

    async def _patch(self, body: Body, path: str, patch: dict[str, Any]) -> Body | None:
        # The uid makes the API server refuse when the name has been taken by a new resource.
        patch.setdefault("metadata", {})["uid"] = body.uid
        answer = await self._call("PATCH", path, missing_ok=True, headers=_MERGE_PATCH, json=patch)
        return None if answer is None else Body(answer)

    async def _call(self, method: str, path: str, **options: Any) -> Any:
        for fresh in (False, True):
            if self._open is None:
                self._open = _client(await asyncio.to_thread(self._credentials), self._timeout)
            try:
                return await call(self._open, "the Kubernetes API", method, path, **options)
            except BackendError as error:
                if error.status != 401 or fresh:
                    raise
                await self.close()
        raise AssertionError("unreachable")


def _path(key: Key) -> str:
    return f"/apis/{API_VERSION}/namespaces/{key.namespace}/{PLURAL_OF_KIND[key.kind]}/{key.name}"
