"""What an HTTP request asks for: the address, the options and the body."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson
import yaml

from groundtune_local.kubeapi import protobuf
from groundtune_local.kubeapi.discovery import subresources
from groundtune_local.kubeapi.errors import ApiError, bad_request, not_served, unsupported_media_type
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.resources import NAMESPACES, Registry, Resource
from groundtune_local.kubeapi.store import Key
from groundtune_local.kubeapi.writes import DeleteOptions, FieldValidation, Policy, WriteOptions


@dataclass(frozen=True)
class Target:
    """What an address names. ``namespace`` is None for a list over all of them, ``name`` empty for a
    collection."""

    resource: Resource
    namespace: str | None
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return Key(self.resource.qualified, self.namespace or "", self.name)


def parse_target(registry: Registry, path: str) -> Target:
    """Read an address such as ``/apis/g/v/namespaces/n/plural/name/status``. Raises ApiError 404."""
    parts = path.strip("/").split("/")
    if parts[0] == "api" and len(parts) > 2:
        group, version, rest = "", parts[1], parts[2:]
    elif parts[0] == "apis" and len(parts) > 3:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        raise not_served(path)
    namespace: str | None = None
    # /namespaces/x is the namespace itself, and so are its subresources; anything else is inside it.
    if rest[0] == "namespaces" and len(rest) > 2 and rest[2] not in (*subresources(NAMESPACES), "finalize"):
        namespace, rest = rest[1], rest[2:]
    resource = registry.find(group, version, rest[0])
    if resource is None or len(rest) > 3 or (namespace is not None) > resource.namespaced:
        raise not_served(path)
    name = rest[1] if len(rest) > 1 else ""
    subresource = rest[2] if len(rest) > 2 else ""
    if subresource and subresource not in subresources(resource):
        raise not_served(path)
    if name and resource.namespaced and namespace is None:
        raise not_served(path)
    return Target(resource, namespace if resource.namespaced else "", name, subresource)


def flag(query: Mapping[str, str], name: str) -> bool:
    """Whether a query parameter says yes; given without a value it does."""
    return query.get(name, "false").lower() in ("", "1", "t", "true")


def number(query: Mapping[str, str], name: str) -> int | None:
    """A query parameter that is a whole number, or None. Raises ApiError 400."""
    text = query.get(name)
    if not text:
        return None
    if not text.isdecimal():
        raise bad_request(f"{name} has to be a whole number, not {text!r}")
    return int(text)


def write_options(query: Mapping[str, str], user_agent: str) -> WriteOptions:
    """The options of a create, update or patch. Raises ApiError 400."""
    validation = query.get("fieldValidation") or "Warn"
    if validation not in ("Strict", "Warn", "Ignore"):
        raise bad_request(f"fieldValidation has to be Strict, Warn or Ignore, not {validation!r}")
    manager = query.get("fieldManager") or user_agent.partition("/")[0][:128] or "unknown"
    return WriteOptions(
        manager=manager, validation=cast(FieldValidation, validation), dry_run=dry_run(query.get("dryRun"))
    )


def dry_run(value: str | list[str] | None) -> bool:
    """Whether ``dryRun`` is asked for. Raises ApiError 400 for anything but All."""
    values = [value] if isinstance(value, str) else value or []
    for text in values:
        if text not in ("", "All"):
            raise bad_request(f"dryRun has to be All, not {text!r}")
    return "All" in values


def delete_options(query: Mapping[str, str], body: Obj) -> DeleteOptions:
    """The options of a delete, from the query or the body. Raises ApiError 400."""
    policy = body.get("propagationPolicy") or query.get("propagationPolicy") or "Background"
    if body.get("orphanDependents") is True or flag(query, "orphanDependents"):
        policy = "Orphan"
    if policy not in ("Background", "Foreground", "Orphan"):
        raise bad_request(f"propagationPolicy has to be Background, Foreground or Orphan, not {policy!r}")
    preconditions = body.get("preconditions") or {}
    return DeleteOptions(
        policy=cast(Policy, policy),
        uid=preconditions.get("uid"),
        resource_version=preconditions.get("resourceVersion"),
        dry_run=dry_run(body.get("dryRun")) or dry_run(query.get("dryRun")),
    )


class _JsonLikeLoader(yaml.CSafeLoader):
    """YAML with the types of JSON: without it, times would not stay text."""


_JsonLikeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
}


def parse_body(body: bytes, content_type: str) -> Any:
    """A JSON or YAML body. Raises ApiError 400 or 415."""
    if content_type == protobuf.MEDIA_TYPE:
        return protobuf.decode(body)
    if "cbor" in content_type:
        raise unsupported_media_type(f"the local control plane takes JSON and YAML, not {content_type}")
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        if "yaml" not in content_type:
            raise bad_request(f"the body is not JSON: {exc}") from exc
    try:
        return yaml.load(body, Loader=_JsonLikeLoader)  # noqa: S506
    except yaml.YAMLError as exc:
        raise bad_request(f"the body is not YAML: {exc}") from exc


def parse_object(body: bytes, content_type: str) -> Obj:
    """A body that has to be one object. Raises ApiError 400 or 415."""
    parsed = parse_body(body, content_type)
    if not isinstance(parsed, dict) or not isinstance(parsed.setdefault("metadata", {}) or {}, dict):
        raise ApiError(400, "BadRequest", "the body has to be one object with metadata")
    parsed["metadata"] = parsed["metadata"] or {}
    return parsed
