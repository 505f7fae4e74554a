"""Rules in the Common Expression Language: ``x-kubernetes-validations``.

The language is cel-python's; this module gives values the types their schema declares, adds the
string and list functions that Kubernetes has, and lets numbers of different types be compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Any, cast

import celpy
from celpy import celtypes
from celpy.evaluation import base_functions

from groundtune_local.kubeapi.errors import Cause
from groundtune_local.kubeapi.formats import parse_duration
from groundtune_local.kubeapi.objects import Obj, parse_time
from groundtune_local.kubeapi.resources import Schema
from groundtune_local.kubeapi.schema import (
    INT_OR_STRING,
    LIST_TYPE,
    VALIDATIONS,
    at,
    child_schema,
    list_item_keys,
)
from groundtune_local.kubeapi.validation import quoted, type_name

_OLD_SELF = re.compile(r"\boldSelf\b")
#: How the library shows a string inside its own messages.
_WRAPPED = re.compile(r"StringType\('(.*?)'\)")
_RESERVED = {
    *("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if"),
    *("import", "let", "loop", "package", "namespace", "return", "var", "void", "while"),
}
_PREFIX = {
    "FieldValueInvalid": "Invalid value: {value}: ",
    "FieldValueForbidden": "Forbidden: ",
    "FieldValueRequired": "Required value: ",
    "FieldValueDuplicate": "Duplicate value: {value}",
}


class CelError(Exception):
    """A rule that can't be compiled or evaluated."""


def check_rule(expression: str) -> None:
    """Raise CelError when a rule does not compile."""
    _program(expression)


def check_rules(obj: Obj, schema: Schema, old: Obj | None) -> list[Cause]:
    """Evaluate all rules of a schema. ``old`` is the object before an update: rules that speak of
    ``oldSelf`` hold only where there is an old value, the others only where the value changed (so that
    rules which came later lock nobody out)."""
    return list(_walk(obj, schema, "", old))


def _walk(value: Any, schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    if value is None:
        return  # a null is its parent's matter, as in the API server
    rules = schema.get(VALIDATIONS) or ()
    unchanged = bool(rules) and old is not None and value == old
    for rule in rules:
        if _OLD_SELF.search(rule["rule"]) or not unchanged:
            yield from _rule(rule, value, schema, path, old)
    if isinstance(value, dict):
        olds = old if isinstance(old, dict) else {}
        for name, item in value.items():
            child = child_schema(schema, name)
            if child is not None:
                yield from _walk(item, child, at(path, name, schema), olds.get(name))
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        olds_of_items = _old_items(value, old, schema)
        for index, item in enumerate(value):
            yield from _walk(item, schema["items"], at(path, index), olds_of_items[index])


def _old_items(value: list[Any], old: Any, schema: Schema) -> list[Any]:
    """The old value of each item, None where there is none. Only the items of a list of type map can be
    told from each other across an update, unless nothing changed at all."""
    if value == old:
        return value
    if schema.get(LIST_TYPE) != "map" or not isinstance(old, list):
        return [None] * len(value)
    by_key = {repr(list_item_keys(item, schema)): item for item in old if isinstance(item, dict)}
    return [by_key.get(repr(list_item_keys(item, schema))) for item in value]


def _rule(rule: Obj, value: Any, schema: Schema, path: str, old: Any) -> Iterator[Cause]:
    expression = rule["rule"]
    variables = {"self": to_cel(value, schema)}
    if _OLD_SELF.search(expression):
        if old is None:
            return
        variables["oldSelf"] = to_cel(old, schema)
    reason = rule.get("reason") or "FieldValueInvalid"
    where = path + (rule.get("fieldPath") or "")
    where = where.removeprefix(".") or "<nil>"
    try:
        holds = evaluate(expression, variables)
    except CelError as exc:
        shown = quoted(_shown(value))
        stated = rule.get("message") or rule["rule"].strip()
        yield Cause("FieldValueInvalid", where, f"Invalid value: {shown}: {exc} evaluating rule: {stated}")
        return
    if holds is not True and not (isinstance(holds, celtypes.BoolType) and holds):
        message = _message(rule, variables)
        yield Cause(reason, where, _PREFIX[reason].format(value=quoted(_shown(value))) + message)


def _shown(value: Any) -> Any:
    return type_name(value) if isinstance(value, dict | list) else value


def _message(rule: Obj, variables: dict[str, Any]) -> str:
    if rule.get("messageExpression"):
        try:
            return str(evaluate(rule["messageExpression"], variables))
        except CelError:
            pass  # the plain message below stands in, as in the API server
    return str(rule.get("message") or f"failed rule: {rule['rule'].strip()}")


def evaluate(expression: str, variables: dict[str, Any]) -> Any:
    """The value of an expression. Raises CelError."""
    try:
        return _program(expression).evaluate(cast(Any, variables))
    except celpy.CELEvalError as exc:
        # The library's own text carries its whole state; what a person needs is the last cause.
        detail = exc.args[2] if len(exc.args) > 2 else None
        text = detail[0] if isinstance(detail, tuple) and detail else exc.args[0]
        if isinstance(text, str) and text.startswith("undeclared"):
            text = text.partition(" (in activation")[0]
        raise CelError(_WRAPPED.sub(r"\1", str(text))) from exc


@lru_cache(maxsize=1024)
def _program(expression: str) -> celpy.Runner:
    environment = celpy.Environment()
    try:
        return environment.program(environment.compile(expression), functions=_FUNCTIONS)
    except celpy.CELParseError as exc:
        raise CelError(f"compilation failed: {exc}") from exc


def to_cel(value: Any, schema: Schema | None) -> Any:
    """A JSON value as the CEL value its schema declares: doubles for numbers, durations, times."""
    schema = schema or {}
    if isinstance(value, dict):
        named = schema.get("properties") or {}
        return celtypes.MapType(
            {
                celtypes.StringType(escape(k) if k in named else k): to_cel(v, child_schema(schema, k))
                for k, v in value.items()
            }
        )
    if isinstance(value, list):
        items = schema.get("items")
        return celtypes.ListType([to_cel(item, items if isinstance(items, dict) else None) for item in value])
    if isinstance(value, str):
        try:
            if schema.get("format") == "duration":
                return celtypes.DurationType(parse_duration(value))
            if schema.get("format") in ("date-time", "datetime"):
                return celtypes.TimestampType(parse_time(value))
        except ValueError:
            pass  # validation has told of it already
        return celtypes.StringType(value)
    if schema.get("type") == "number" and not schema.get(INT_OR_STRING) and isinstance(value, int | float):
        return celtypes.DoubleType(value)
    return celpy.json_to_cel(value)


def escape(name: str) -> str:
    """A field name as rules write it, where it is no identifier: ``a-b`` is ``a__dash__b``."""
    if name in _RESERVED:
        return f"__{name}__"
    name = name.replace("__", "__underscores__")
    return name.replace(".", "__dot__").replace("-", "__dash__").replace("/", "__slash__")


_NUMBERS = (celtypes.IntType, celtypes.UintType, celtypes.DoubleType)


def _across_numbers(operator: str) -> Callable[[Any, Any], Any]:
    same = cast(Callable[[Any, Any], Any], base_functions[operator])

    def compare(a: Any, b: Any) -> Any:
        if isinstance(a, _NUMBERS) and isinstance(b, _NUMBERS) and type(a) is not type(b):
            return same(celtypes.DoubleType(a), celtypes.DoubleType(b))
        if operator in ("_==_", "_!=_") and (a is None or b is None):
            return celtypes.BoolType((a is b) == (operator == "_==_"))
        return same(a, b)

    return compare


def _replace(text: str, old: str, new: str, count: int = -1) -> celtypes.StringType:
    return celtypes.StringType(text.replace(old, new, int(count)))


def _split(text: str, by: str, limit: int = -1) -> celtypes.ListType:
    parts = text.split(by) if by else list(text)
    if 0 <= limit < len(parts):
        parts = [*parts[: limit - 1], by.join(parts[limit - 1 :])] if limit else []
    return celtypes.ListType([celtypes.StringType(part) for part in parts])


def _substring(text: str, start: int, end: int | None = None) -> celtypes.StringType:
    return celtypes.StringType(text[start:end])


def _join(items: list[str], by: str = "") -> celtypes.StringType:
    return celtypes.StringType(by.join(items))


def _index_of(where: Any, what: Any) -> celtypes.IntType:
    if isinstance(where, str):
        return celtypes.IntType(where.find(what))
    return celtypes.IntType(next((i for i, item in enumerate(where) if item == what), -1))


def _sum(items: list[Any]) -> Any:
    total = items[0] if items else celtypes.IntType(0)
    for item in items[1:]:
        total = total + item
    return total


def _is_sorted(items: list[Any]) -> celtypes.BoolType:
    return celtypes.BoolType(all(a <= b for a, b in pairwise(items)))


_FUNCTIONS = cast(
    Any,
    {
        **{op: _across_numbers(op) for op in ("_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_")},
        "lowerAscii": lambda text: celtypes.StringType(text.lower()),
        "upperAscii": lambda text: celtypes.StringType(text.upper()),
        "trim": lambda text: celtypes.StringType(text.strip()),
        "replace": _replace,
        "split": _split,
        "substring": _substring,
        "join": _join,
        "indexOf": _index_of,
        "sum": _sum,
        "min": min,
        "max": max,
        "isSorted": _is_sorted,
    },
)
