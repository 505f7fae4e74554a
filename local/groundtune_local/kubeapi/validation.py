"""Validation of values against structural schemas, in the wording of the API server."""

from __future__ import annotations

import json
import re
from typing import Any

import re2  # type: ignore[import-untyped]

from groundtune_local.kubeapi.errors import Cause
from groundtune_local.kubeapi.formats import matches_format
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.resources import Schema
from groundtune_local.kubeapi.schema import (
    EMBEDDED,
    INT_OR_STRING,
    LIST_TYPE,
    at,
    child_schema,
    list_item_keys,
)

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
}


def validate(obj: Obj, schema: Schema) -> list[Cause]:
    """Everything the schema has against an object. CEL rules are not looked at here."""
    causes: list[Cause] = []
    _value(obj, schema, "", causes)
    return causes


def newly_broken(causes: list[Cause], obj: Obj, old: Obj | None) -> list[Cause]:
    """Without the causes in values that an update from ``old`` leaves as they were: a schema that got
    stricter must not lock people out of their objects."""
    if old is None:
        return causes
    return [cause for cause in causes if _touched(cause, obj, old)]


_ABOUT_PARENT = ("FieldValueRequired", "FieldValueDuplicate")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[([^\]]*)\]")


def _touched(cause: Cause, obj: Obj, old: Obj) -> bool:
    steps = [name or key for name, key in _STEP.findall(cause.field)]
    if cause.reason in _ABOUT_PARENT:
        steps.pop()
    return bool(_at(obj, steps) != _at(old, steps))


def _at(value: Any, steps: list[str]) -> Any:
    for step in steps:
        if isinstance(value, list):
            value = value[int(step)] if int(step) < len(value) else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def quoted(value: Any) -> str:
    """A value as the API server's messages show it."""
    if isinstance(value, dict | list):
        return json.dumps(json.dumps(value, separators=(",", ":")))
    return json.dumps(value, ensure_ascii=False)


def invalid(path: str, value: Any, why: str) -> Cause:
    return Cause("FieldValueInvalid", path or "<nil>", f"Invalid value: {quoted(value)}: {why}")


def type_name(value: Any) -> str:
    """The JSON type of a value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    return next(name for name, types in _TYPES.items() if isinstance(value, types))


def _has_type(value: Any, wanted: str) -> bool:
    if isinstance(value, bool):
        return wanted == "boolean"
    if wanted == "integer" and isinstance(value, float):
        return value.is_integer()
    return isinstance(value, _TYPES[wanted])


def _value(value: Any, schema: Schema, path: str, causes: list[Cause]) -> None:
    if value is None and schema.get("nullable"):
        return
    body = f"{path} in body" if path else "in body"
    wanted = schema.get("type")
    if schema.get(INT_OR_STRING):
        if not (isinstance(value, str) or _has_type(value, "integer")):
            causes.append(
                _type_invalid(
                    path, value, f"{body} must be of type integer,string: {quoted(type_name(value))}"
                )
            )
            return
    elif wanted and not _has_type(value, wanted):
        causes.append(
            _type_invalid(path, value, f"{body} must be of type {wanted}: {quoted(type_name(value))}")
        )
        return
    if "enum" in schema and not any(
        value == choice and type(value) is type(choice) for choice in schema["enum"]
    ):
        choices = ", ".join(quoted(choice) for choice in schema["enum"])
        message = f"Unsupported value: {quoted(value)}: supported values: {choices}"
        causes.append(Cause("FieldValueNotSupported", path, message))
    if isinstance(value, str):
        _string(value, schema, path, body, causes)
    elif isinstance(value, dict):
        _object(value, schema, path, body, causes)
    elif isinstance(value, list):
        _list(value, schema, path, body, causes)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _number(value, schema, path, body, causes)
    _junctors(value, schema, path, body, causes)


def _type_invalid(path: str, value: Any, why: str) -> Cause:
    return Cause(
        "FieldValueTypeInvalid", path or "<nil>", f"Invalid value: {quoted(type_name(value))}: {why}"
    )


def _string(value: str, schema: Schema, path: str, body: str, causes: list[Cause]) -> None:
    if "maxLength" in schema and len(value) > schema["maxLength"]:
        message = f"Too long: may not be more than {schema['maxLength']} characters"
        causes.append(Cause("FieldValueTooLong", path, message))
    if "minLength" in schema and len(value) < schema["minLength"]:
        causes.append(invalid(path, value, f"{body} should be at least {schema['minLength']} chars long"))
    if "pattern" in schema and not re2.search(schema["pattern"], value):
        causes.append(invalid(path, value, f"{body} should match '{schema['pattern']}'"))
    if "format" in schema and not matches_format(value, schema["format"]):
        causes.append(invalid(path, value, f"{body} must be of type {schema['format']}: {quoted(value)}"))


def _number(value: float, schema: Schema, path: str, body: str, causes: list[Cause]) -> None:
    minimum, maximum, step = schema.get("minimum"), schema.get("maximum"), schema.get("multipleOf")
    if minimum is not None:
        if schema.get("exclusiveMinimum") and value <= minimum:
            causes.append(invalid(path, value, f"{body} should be greater than {minimum}"))
        elif value < minimum:
            causes.append(invalid(path, value, f"{body} should be greater than or equal to {minimum}"))
    if maximum is not None:
        if schema.get("exclusiveMaximum") and value >= maximum:
            causes.append(invalid(path, value, f"{body} should be less than {maximum}"))
        elif value > maximum:
            causes.append(invalid(path, value, f"{body} should be less than or equal to {maximum}"))
    if step and not (value / step).is_integer():
        causes.append(invalid(path, value, f"{body} should be a multiple of {step}"))
    bits = {"int32": 31, "int64": 63}.get(schema.get("format", ""))
    if bits and not -(2**bits) <= value < 2**bits:
        causes.append(invalid(path, value, f"{body} must be of type {schema['format']}: {quoted(value)}"))


def _object(value: Obj, schema: Schema, path: str, body: str, causes: list[Cause]) -> None:
    for name in schema.get("required") or ():
        if name not in value:
            causes.append(Cause("FieldValueRequired", at(path, name), "Required value"))
    if schema.get(EMBEDDED):
        for name in ("apiVersion", "kind"):
            if not value.get(name):
                causes.append(Cause("FieldValueRequired", at(path, name), "must not be empty"))
    _count(value, schema, "Properties", "properties", path, body, causes)
    for name, item in value.items():
        child = child_schema(schema, name)
        if child is not None:
            _value(item, child, at(path, name, schema), causes)


def _list(value: list[Any], schema: Schema, path: str, body: str, causes: list[Cause]) -> None:
    _count(value, schema, "Items", "items", path, body, causes)
    items = schema.get("items")
    if isinstance(items, dict):
        for index, item in enumerate(value):
            _value(item, items, at(path, index), causes)
    list_type = schema.get(LIST_TYPE)
    if list_type not in ("set", "map"):
        return
    seen: list[Any] = []
    for index, item in enumerate(value):
        if list_type == "map" and not isinstance(item, dict):
            continue
        identity = list_item_keys(item, schema) if list_type == "map" else item
        if identity in seen:
            shown = item
            if list_type == "map":
                shown = dict(zip(schema.get("x-kubernetes-list-map-keys") or (), identity, strict=True))
            causes.append(Cause("FieldValueDuplicate", at(path, index), f"Duplicate value: {quoted(shown)}"))
        seen.append(identity)


def _count(
    value: Obj | list[Any], schema: Schema, suffix: str, noun: str, path: str, body: str, causes: list[Cause]
) -> None:
    least, most = schema.get(f"min{suffix}"), schema.get(f"max{suffix}")
    if most is not None and len(value) > most:
        message = (
            f"Too many: {len(value)}: must have at most {most} {noun if most != 1 else noun.rstrip('s')}"
        )
        causes.append(Cause("FieldValueTooMany", path, message))
    if least is not None and len(value) < least:
        causes.append(invalid(path, value, f"{body} should have at least {least} {noun}"))


def _junctors(value: Any, schema: Schema, path: str, body: str, causes: list[Cause]) -> None:
    def fits(branch: Schema) -> bool:
        problems: list[Cause] = []
        _value(value, branch, path, problems)
        return not problems

    for branch in schema.get("allOf") or ():
        _value(value, branch, path, causes)
    if schema.get("anyOf") and not any(fits(branch) for branch in schema["anyOf"]):
        causes.append(invalid(path, value, f"{body} must validate at least one schema (anyOf)"))
    if schema.get("oneOf"):
        fitting = sum(fits(branch) for branch in schema["oneOf"])
        if fitting != 1:
            found = "none valid" if not fitting else f"{fitting} valid alternatives"
            why = f"{body} must validate one and only one schema (oneOf). Found {found}"
            causes.append(invalid(path, value, why))
    if schema.get("not") and fits(schema["not"]):
        causes.append(invalid(path, value, f"{body} must not validate the schema (not)"))
