"""Sets of fields, as ``managedFields`` records them, and what can be done to an object by them.

A field is a path of elements in the notation of ``FieldsV1``: ``f:name`` for a field, ``k:{...}`` for
the list item with these keys, ``v:...`` for a value in a list of type set.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from groundtune_local.kubeapi.objects import Obj, clone
from groundtune_local.kubeapi.resources import Resource, Schema
from groundtune_local.kubeapi.schema import LIST_KEYS, LIST_TYPE, MAP_TYPE, child_schema, list_item_keys

Field = tuple[str, ...]

_ITEM = object()
"""Stands for the presence of an item in a keyed list, beside the fields in the item."""

_METADATA: Schema = {
    "type": "object",
    "properties": {
        "finalizers": {"type": "array", LIST_TYPE: "set"},
        "ownerReferences": {
            "type": "array",
            LIST_TYPE: "map",
            LIST_KEYS: ["uid"],
            "items": {"type": "object", MAP_TYPE: "atomic"},
        },
    },
}
_UNOWNED_METADATA = (
    *("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generateName", "generation"),
    *("managedFields", "name", "namespace", "resourceVersion", "selfLink", "uid"),
)


def ownership_schema(resource: Resource) -> Schema:
    """The schema by which a resource's objects divide into fields that managers own."""
    schema = dict(resource.schema or {})
    schema["properties"] = {**(schema.get("properties") or {}), "metadata": _METADATA}
    return schema


def ownable(obj: Obj, *, status: bool, whole: bool) -> Obj:
    """The part of an object that managers own: without what the server sets, and only the status, or
    all but the status, or (``whole``) both."""
    part = {k: v for k, v in obj.items() if k not in ("apiVersion", "kind", "metadata")}
    if not whole:
        part = {k: v for k, v in part.items() if (k == "status") is status}
    metadata = {k: v for k, v in (obj.get("metadata") or {}).items() if k not in _UNOWNED_METADATA}
    if metadata and not status:
        part["metadata"] = metadata
    return part


def leaves(value: Any, schema: Schema | None, path: Field = ()) -> dict[Field, Any]:
    """The fields of a value that can be owned, each with its value."""
    schema = schema or {}
    if isinstance(value, dict) and value and schema.get(MAP_TYPE) != "atomic":
        found: dict[Field, Any] = {}
        for name, item in value.items():
            found.update(leaves(item, child_schema(schema, name), (*path, f"f:{name}")))
        return found
    list_type = schema.get(LIST_TYPE)
    if isinstance(value, list) and list_type == "set":
        return {(*path, f"v:{_json(item)}"): item for item in value}
    if isinstance(value, list) and list_type == "map":
        found = {}
        for item in value:
            place = (*path, _item_element(item, schema))
            found[place] = _ITEM
            found.update(leaves(item, schema.get("items"), place))
        return found
    return {path: value} if path else {}


def _item_element(item: Obj, schema: Schema) -> str:
    keys = sorted(zip(schema[LIST_KEYS], list_item_keys(item, schema), strict=True))
    return f"k:{_json(dict(keys))}"


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()


def changed(old: dict[Field, Any], new: dict[Field, Any]) -> tuple[set[Field], set[Field]]:
    """Fields that are new or have another value, and fields that are gone."""
    differing = {field for field, value in new.items() if field not in old or old[field] != value}
    return differing, old.keys() - new.keys()


def to_fields_v1(fields: Iterable[Field]) -> Obj:
    """Fields as the nested objects of ``FieldsV1``."""
    root: Obj = {}
    for field in sorted(fields):
        node = root
        for element in field:
            node = node.setdefault(element, {})
        if field[-1].startswith("k:"):
            node["."] = {}
    return root


def from_fields_v1(nested: Any, path: Field = ()) -> set[Field]:
    """Fields from the nested objects of ``FieldsV1``; what is none is left out, for clients may write
    there what they like."""
    found: set[Field] = set()
    if not isinstance(nested, dict):
        return found
    for element, inner in nested.items():
        if element == ".":
            if path:
                found.add(path)
        elif inner:
            found |= from_fields_v1(inner, (*path, element))
        else:
            found.add((*path, element))
    return found


def describe(field: Field) -> str:
    """A field as messages name it: ``.spec.list[name="a"].value``."""
    text = ""
    for element in field:
        kind, _, rest = element.partition(":")
        if kind == "k":
            keys = orjson.loads(rest)
            text += "[" + ",".join(f"{k}={_json(v)}" for k, v in keys.items()) + "]"
        else:
            text += f"[={rest}]" if kind == "v" else f".{rest}"
    return text


def merge(live: Any, applied: Any, schema: Schema | None) -> Any:
    """``applied`` laid over ``live``: maps merge, keyed lists merge by item, sets unite, the rest is
    replaced. Returns a new value."""
    schema = schema or {}
    if isinstance(applied, dict) and isinstance(live, dict) and schema.get(MAP_TYPE) != "atomic":
        result = dict(live)
        for name, value in applied.items():
            result[name] = merge(live.get(name), value, child_schema(schema, name))
        return result
    list_type = schema.get(LIST_TYPE)
    if isinstance(applied, list) and isinstance(live, list) and list_type == "set":
        return [*live, *(clone(item) for item in applied if item not in live)]
    if isinstance(applied, list) and isinstance(live, list) and list_type == "map":
        items = {_item_element(item, schema): item for item in live}
        for item in applied:
            element = _item_element(item, schema)
            items[element] = merge(items.get(element), item, schema.get("items"))
        return list(items.values())
    return clone(applied)


def without(value: Any, fields: Iterable[Field], schema: Schema | None) -> Any:
    """A copy of ``value`` without these fields; maps that get empty by it go too."""
    result = clone(value)
    # An item of a keyed list goes before its fields: without its keys it could not be found.
    for field in sorted(fields, key=len):
        _remove(result, field, schema)
    return result


def _remove(value: Any, field: Field, schema: Schema | None) -> None:
    schema = schema or {}
    kind, _, rest = field[0].partition(":")
    if kind == "f":
        if not isinstance(value, dict) or rest not in value:
            return
        if len(field) > 1:
            _remove(value[rest], field[1:], child_schema(schema, rest))
        if len(field) == 1 or value[rest] in ({}, []):
            del value[rest]
    elif isinstance(value, list):
        for index, item in enumerate(value):
            element = f"v:{_json(item)}" if kind == "v" else _item_element(item, schema)
            if element != field[0]:
                continue
            if len(field) == 1:
                del value[index]
            else:
                _remove(item, field[1:], schema.get("items"))
            return
