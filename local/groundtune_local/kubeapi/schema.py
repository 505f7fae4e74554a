"""Structural schemas: pruning unknown fields, dropping nulls, filling in defaults."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from groundtune_local.kubeapi.objects import Obj, clone
from groundtune_local.kubeapi.resources import Schema

PRESERVE = "x-kubernetes-preserve-unknown-fields"
INT_OR_STRING = "x-kubernetes-int-or-string"
EMBEDDED = "x-kubernetes-embedded-resource"
LIST_TYPE = "x-kubernetes-list-type"
LIST_KEYS = "x-kubernetes-list-map-keys"
MAP_TYPE = "x-kubernetes-map-type"
VALIDATIONS = "x-kubernetes-validations"

_ROOT_FIELDS = {"apiVersion", "kind", "metadata"}
_METADATA_FIELDS = {
    "annotations",
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "finalizers",
    "generateName",
    "generation",
    "labels",
    "managedFields",
    "name",
    "namespace",
    "ownerReferences",
    "resourceVersion",
    "selfLink",
    "uid",
}


def child_schema(schema: Schema, name: str) -> Schema | None:
    """The schema of a field, or None where the schema says nothing about it."""
    properties = schema.get("properties") or {}
    if name in properties:
        found: Schema = properties[name]
        return found
    additional = schema.get("additionalProperties")
    return additional if isinstance(additional, dict) else None


def at(path: str, name: str | int, schema: Schema | None = None) -> str:
    """``path`` one step further, as messages write it: ``spec.list[0].field``, ``spec.map[key]``."""
    if isinstance(name, int):
        return f"{path}[{name}]"
    is_map_key = (
        schema is not None
        and name not in (schema.get("properties") or {})
        and "additionalProperties" in schema
    )
    if is_map_key:
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def prune_object(obj: Obj, schema: Schema | None) -> list[str]:
    """Remove the fields the schema does not know, in place, and return their paths. Without a schema
    only metadata is looked at."""
    unknown: list[str] = []
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        for name in [n for n in metadata if n not in _METADATA_FIELDS]:
            unknown.append(f"metadata.{name}")
            del metadata[name]
    if schema is not None:
        _prune(obj, schema, "", unknown, is_resource=True)
    return unknown


def _prune(value: Any, schema: Schema, path: str, unknown: list[str], *, is_resource: bool = False) -> None:
    is_resource = is_resource or bool(schema.get(EMBEDDED))
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for index, item in enumerate(value):
                _prune(item, items, at(path, index), unknown)
        return
    if not isinstance(value, dict):
        return
    keeps = bool(schema.get(PRESERVE)) or schema.get("additionalProperties") is True
    for name in list(value):
        if is_resource and name in _ROOT_FIELDS:
            continue
        child = child_schema(schema, name)
        if child is not None:
            _prune(value[name], child, at(path, name, schema), unknown)
        elif not keeps:
            unknown.append(at(path, name))
            del value[name]


def fill_defaults(value: Any, schema: Schema) -> None:
    """Drop nulls where null is not allowed, then fill in defaults, in place and all the way down."""
    if isinstance(value, list):
        items = schema.get("items")
        if isinstance(items, dict):
            for item in value:
                fill_defaults(item, items)
        return
    if not isinstance(value, dict):
        return
    for name in [n for n, v in value.items() if v is None]:
        child = child_schema(schema, name)
        if child is not None and not child.get("nullable"):
            del value[name]
    for name, child in (schema.get("properties") or {}).items():
        if name not in value and "default" in child:
            value[name] = clone(child["default"])
    for name, item in value.items():
        child = child_schema(schema, name)
        if child is not None:
            fill_defaults(item, child)


def list_item_keys(item: Obj, schema: Schema) -> tuple[Any, ...]:
    """What tells this item of a list of type map apart: the values of its key fields."""
    properties = (schema.get("items") or {}).get("properties") or {}
    return tuple(item.get(key, properties.get(key, {}).get("default")) for key in schema.get(LIST_KEYS) or ())


def walk_schema(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    """Every schema in a schema, with the path it is at."""
    yield path, schema
    for name, child in (schema.get("properties") or {}).items():
        yield from walk_schema(child, f"{path}.properties[{name}]")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from walk_schema(schema["additionalProperties"], f"{path}.additionalProperties")
    if isinstance(schema.get("items"), dict):
        yield from walk_schema(schema["items"], f"{path}.items")
    for junctor in ("allOf", "anyOf", "oneOf"):
        for index, branch in enumerate(schema.get(junctor) or ()):
            yield from walk_schema(branch, f"{path}.{junctor}[{index}]")
