"""Requests on objects: from verb and address to reads and writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request

from groundtune_local.kubeapi.errors import (
    Cause,
    bad_request,
    invalid,
    method_not_allowed,
    unsupported_media_type,
)
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.patch import json_patch, merge_patch, strategic_merge_patch
from groundtune_local.kubeapi.reads import Selection, Watch, list_objects
from groundtune_local.kubeapi.rendering import Rendering
from groundtune_local.kubeapi.requests import (
    Target,
    delete_options,
    flag,
    parse_body,
    parse_object,
    parse_target,
    write_options,
)
from groundtune_local.kubeapi.resources import Registry
from groundtune_local.kubeapi.scale import scale_of, scaled
from groundtune_local.kubeapi.store import Store
from groundtune_local.kubeapi.writes import WriteOptions, Writer

_APPLY = "application/apply-patch+yaml"
_PATCHES: dict[str, Callable[[Any, Any], Any]] = {
    "application/merge-patch+json": merge_patch,
    "application/json-patch+json": json_patch,
    "application/strategic-merge-patch+json": strategic_merge_patch,
}


@dataclass(frozen=True)
class Answer:
    """An object or a stream of lines, and warnings for the client."""

    body: Obj | AsyncIterator[bytes]
    status: int = 200
    warnings: tuple[str, ...] = ()


class Handlers:
    """Answers requests on objects. Methods raise ApiError."""

    def __init__(self, store: Store, registry: Registry, writer: Writer, closing: asyncio.Event) -> None:
        self._store = store
        self._registry = registry
        self._writer = writer
        self._closing = closing

    async def answer(self, request: Request) -> Answer:
        """Answer one request."""
        target = parse_target(self._registry, request.url.path)
        body = await request.body()
        # From here on nothing waits, so that what is read still holds when it is written.
        if request.method == "GET":
            return self._get(request, target)
        options = write_options(request.query_params, request.headers.get("user-agent", ""))
        if target.resource.deprecation:
            options.warnings.append(target.resource.deprecation)
        if target.subresource == "scale":
            result, status = self._scale(request, target, body, options), 200
        elif request.method == "DELETE":
            return self._delete(request, target, body)
        else:
            result, status = self._write(request, target, body, options)
            rendering = Rendering.asked_for(target.resource, _accept(request), request.query_params)
            result = rendering.one(result)
        return Answer(result, status, tuple(options.warnings))

    def _get(self, request: Request, target: Target) -> Answer:
        query = request.query_params
        rendering = Rendering.asked_for(target.resource, _accept(request), query)
        warnings = (target.resource.deprecation,) if target.resource.deprecation else ()
        if flag(query, "watch") and not target.subresource:
            selection = Selection.asked_for(target, query)
            watch = Watch(self._store, rendering, selection, query, self._closing)
            return Answer(watch.events(), warnings=warnings)
        if not target.name:
            selection = Selection.asked_for(target, query)
            return Answer(list_objects(self._store, rendering, selection, query), warnings=warnings)
        obj = self._writer.read(target.resource, target.key)
        if target.subresource == "scale":
            return Answer(scale_of(target.resource, obj))
        return Answer(rendering.one(obj), warnings=warnings)

    def _write(self, request: Request, target: Target, body: bytes, options: WriteOptions) -> tuple[Obj, int]:
        media_type = content_type(request)
        if request.method == "POST" and not target.name:
            if target.namespace is None:
                raise method_not_allowed("an object of this kind is created in a namespace")
            obj = parse_object(body, media_type)
            return self._writer.create(target.resource, target.namespace, obj, options), 201
        if request.method == "PUT" and target.name:
            obj = parse_object(body, media_type)
            if target.resource.custom and not obj["metadata"].get("resourceVersion"):
                message = "Invalid value: 0: must be specified for an update"
                raise invalid(
                    target.resource,
                    target.name,
                    [Cause("FieldValueInvalid", "metadata.resourceVersion", message)],
                )
            updated = self._writer.update(
                target.resource, target.key, obj, options, subresource=target.subresource
            )
            return updated, 200
        if request.method == "PATCH" and target.name:
            return self._patch(request, target, body, options)
        raise method_not_allowed("the server does not allow this method on the requested resource")

    def _patch(self, request: Request, target: Target, body: bytes, options: WriteOptions) -> tuple[Obj, int]:
        media_type = content_type(request)
        if media_type == _APPLY:
            if not request.query_params.get("fieldManager"):
                raise bad_request("fieldManager is required for apply patch")
            config = parse_object(body, media_type)
            force = flag(request.query_params, "force")
            applied, new = self._writer.apply(
                target.resource, target.key, config, options, subresource=target.subresource, force=force
            )
            return applied, 201 if new else 200
        change = _change(target, media_type, parse_body(body, media_type))
        patched = self._writer.patch(
            target.resource, target.key, change, options, subresource=target.subresource
        )
        return patched, 200

    def _scale(self, request: Request, target: Target, body: bytes, options: WriteOptions) -> Obj:
        resource = target.resource
        media_type = content_type(request)
        if request.method == "PUT":
            wanted = parse_object(body, media_type)
        elif request.method == "PATCH":
            change = _change(target, media_type, parse_body(body, media_type))
            wanted = change(scale_of(resource, self._writer.read(resource, target.key)))
        else:
            raise method_not_allowed("a scale can be read, replaced and patched")
        updated = self._writer.patch(resource, target.key, lambda obj: scaled(resource, obj, wanted), options)
        return scale_of(resource, updated)

    def _delete(self, request: Request, target: Target, body: bytes) -> Answer:
        asked = parse_object(body, content_type(request)) if body.strip() else {}
        options = delete_options(request.query_params, asked)
        if target.subresource:
            raise method_not_allowed("a subresource can't be deleted")
        if not target.name:
            selection = Selection.asked_for(target, request.query_params)
            found = selection.objects(self._store)
            for key, _ in found:
                self._writer.delete(target.resource, key, options)
            rendering = Rendering(target.resource, "plain")
            return Answer(rendering.many([obj for _, obj in found], {"resourceVersion": str(self._store.rv)}))
        obj, gone = self._writer.delete(target.resource, target.key, options)
        if not gone:
            return Answer(obj)
        details = {
            "name": target.name,
            "group": target.resource.group,
            "kind": target.resource.plural,
            "uid": obj["metadata"]["uid"],
        }
        return Answer(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )


def _accept(request: Request) -> str:
    return request.headers.get("accept", "")


def content_type(request: Request) -> str:
    """The media type of a request's body, without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip()


def _change(target: Target, content_type: str, patch: Any) -> Callable[[Obj], Any]:
    merge = _PATCHES.get(content_type)
    strategic = content_type == "application/strategic-merge-patch+json"
    if merge is None or (strategic and (target.resource.custom or target.subresource == "scale")):
        known = [kind for kind in _PATCHES if not (target.resource.custom and "strategic" in kind)]
        raise unsupported_media_type(
            "the body of the request was in an unknown format - accepted media types include: "
            + ", ".join([*known, _APPLY])
        )
    return lambda obj: merge(obj, patch)
