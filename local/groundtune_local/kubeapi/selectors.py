"""Label and field selectors of lists and watches."""

from __future__ import annotations

import re
from collections.abc import Callable

from groundtune_local.kubeapi.errors import bad_request
from groundtune_local.kubeapi.objects import Obj

Test = Callable[[Obj], bool]

_SET = re.compile(r"^(?P<key>[^\s!=,()]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_EQUAL = re.compile(r"^(?P<key>[^\s!=,()]+)\s*(?P<op>==|=|!=)\s*(?P<value>[^\s!=,()]*)$")
_EXISTS = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=,()]+)$")
_COMMA = re.compile(r",(?![^()]*\))")

_EVERY_KIND = ("metadata.name", "metadata.namespace")
_EVENT_FIELDS = (
    *(
        f"involvedObject.{f}"
        for f in ("kind", "namespace", "name", "uid", "apiVersion", "resourceVersion", "fieldPath")
    ),
    "reason",
    "reportingComponent",
    "source",
    "type",
)
_FIELDS_OF = {"events": _EVENT_FIELDS, "secrets": ("type",), "namespaces": ("status.phase",)}


def label_test(selector: str) -> Test:
    """A test for a label selector such as ``a=b,c in (d,e),!f``. Raises ApiError 400."""
    tests = [_label_requirement(part.strip()) for part in _COMMA.split(selector) if part.strip()]

    def test(obj: Obj) -> bool:
        labels = obj["metadata"].get("labels") or {}
        return all(requirement(labels) for requirement in tests)

    return test


def _label_requirement(text: str) -> Callable[[dict[str, str]], bool]:
    if found := _SET.match(text):
        key, values = found["key"], {v.strip() for v in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _EQUAL.match(text):
        key, value = found["key"], found["value"]
        if found["op"] == "!=":
            return lambda labels: labels.get(key) != value
        return lambda labels: labels.get(key) == value
    if found := _EXISTS.match(text):
        key = found["key"]
        if found["not"]:
            return lambda labels: key not in labels
        return lambda labels: key in labels
    raise bad_request(f"unable to parse requirement: {text!r} is not a label selector")


def field_test(selector: str, plural: str, selectable: tuple[str, ...] = ()) -> Test:
    """A test for a field selector such as ``metadata.name=a``; ``selectable`` are further fields the
    kind declares. Raises ApiError 400 for other fields."""
    allowed = (*_EVERY_KIND, *_FIELDS_OF.get(plural, ()), *selectable)
    wanted: list[tuple[list[str], str, bool]] = []
    for part in filter(None, (p.strip() for p in selector.split(","))):
        found = _EQUAL.match(part)
        if not found:
            raise bad_request(f"invalid selector: {part!r}; can't understand it as a field selector")
        if found["key"] not in allowed:
            raise bad_request(f"field label not supported: {found['key']}")
        wanted.append((found["key"].split("."), found["value"], found["op"] != "!="))

    def test(obj: Obj) -> bool:
        return all((_value(obj, path) == value) is equal for path, value, equal in wanted)

    return test


def _value(obj: Obj, path: list[str]) -> str:
    value: object = obj
    for step in path:
        value = value.get(step) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = value.get("component")  # an event's source is selected by its component
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)
