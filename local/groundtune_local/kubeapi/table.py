"""Objects as ``meta.k8s.io/v1`` tables: what ``kubectl get`` prints."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from groundtune_local.kubeapi.jsonpath import find
from groundtune_local.kubeapi.objects import Obj, parse_time
from groundtune_local.kubeapi.resources import EVENTS, Column, Resource

_AGE = Column(
    "Age",
    "date",
    ".metadata.creationTimestamp",
    "CreationTimestamp is a timestamp representing the server time when this object was created.",
)


def _count(field: str) -> Callable[[Obj], Any]:
    return lambda obj: len(obj.get(field) or ())


def _event_object(obj: Obj) -> str:
    involved = obj.get("involvedObject") or {}
    return f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"


def _event_seen(obj: Obj) -> str:
    seen = obj.get("lastTimestamp") or obj.get("eventTime") or obj["metadata"].get("creationTimestamp")
    return age(seen) if seen else "<unknown>"


def _ports(obj: Obj) -> str:
    ports = (obj.get("spec") or {}).get("ports") or ()
    return ",".join(f"{p.get('port')}/{p.get('protocol', 'TCP')}" for p in ports) or "<none>"


# Cells of built-in kinds that are counted or put together, so no JSONPath gives them.
_BUILTIN: dict[str, tuple[tuple[str, str, str | Callable[[Obj], Any]], ...]] = {
    "namespaces": (("Status", "string", ".status.phase"),),
    "configmaps": (("Data", "integer", _count("data")),),
    "secrets": (("Type", "string", ".type"), ("Data", "integer", _count("data"))),
    "serviceaccounts": (("Secrets", "integer", _count("secrets")),),
    "services": (
        ("Type", "string", ".spec.type"),
        ("Cluster-IP", "string", ".spec.clusterIP"),
        ("Port(s)", "string", _ports),
    ),
    "leases": (("Holder", "string", ".spec.holderIdentity"),),
    "customresourcedefinitions": (("Created At", "string", ".metadata.creationTimestamp"),),
    "events": (
        ("Last Seen", "string", _event_seen),
        ("Type", "string", ".type"),
        ("Reason", "string", ".reason"),
        ("Object", "string", _event_object),
        ("Message", "string", lambda obj: str(obj.get("message", "")).strip()),
    ),
}
_WITHOUT_AGE = {"events", "customresourcedefinitions"}

_Cell = tuple[Column, Callable[[Obj], Any]]


def table(
    resource: Resource, objects: Iterable[Obj], list_meta: Obj, *, include: str, headers: bool = True
) -> Obj:
    """A Table of ``objects``. ``include`` says what each row carries: Object, Metadata or None."""
    cells = _cells(resource)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_meta,
        "columnDefinitions": [_definition(column) for column, _ in cells] if headers else [],
        "rows": [_row(cells, obj, include) for obj in objects],
    }


def _cells(resource: Resource) -> list[_Cell]:
    name = Column("Name", "string", ".metadata.name", "Name must be unique within a namespace.", 0, "name")
    cells: list[_Cell] = [] if resource == EVENTS else [(name, _cell(name))]
    if resource.custom:
        cells += [(column, _cell(column)) for column in resource.columns or (_AGE,)]
        return cells
    for title, type_, source in _BUILTIN.get(resource.plural, ()):
        column = Column(title, type_, source if isinstance(source, str) else "")
        cells.append((column, _cell(column) if isinstance(source, str) else source))
    if resource.plural not in _WITHOUT_AGE:
        cells.append((_AGE, _cell(_AGE)))
    return cells


def _definition(column: Column) -> Obj:
    return {
        "name": column.name,
        "type": column.type,
        "format": column.format,
        "description": column.description,
        "priority": column.priority,
    }


def _cell(column: Column) -> Callable[[Obj], Any]:
    def cell(obj: Obj) -> Any:
        found = find(column.path, obj)
        if not found or (len(found) == 1 and found[0] is None):
            return None
        if column.type == "date":
            return age(found[0]) if isinstance(found[0], str) else "<invalid>"
        if column.type in ("integer", "number", "boolean"):
            return found[0]
        return ",".join(_text(value) for value in found)

    return cell


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(f'"{v}"' if isinstance(v, str) else _text(v) for v in value) + "]"
    return str(value)


def _row(cells: Sequence[_Cell], obj: Obj, include: str) -> Obj:
    row: Obj = {"cells": [cell(obj) for _, cell in cells]}
    if include == "Object":
        row["object"] = obj
    elif include != "None":
        row["object"] = partial_metadata(obj)
    return row


def partial_metadata(obj: Obj) -> Obj:
    """The object reduced to its metadata, as ``PartialObjectMetadata``."""
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": obj["metadata"]}


def age(timestamp: str) -> str:
    """How long ago a time was, as kubectl writes it: 5s, 3m20s, 4h, 7d2h, 2y10d."""
    try:
        then = parse_time(timestamp)
    except ValueError:
        return "<invalid>"
    seconds = int((datetime.datetime.now(datetime.UTC) - then).total_seconds())
    if seconds < -1:
        return "<invalid>"
    seconds = max(seconds, 0)
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m" + (f"{seconds % 60}s" if seconds % 60 else "")
    if minutes < 180:
        return f"{minutes}m"
    if hours < 8:
        return f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")
    if hours < 48:
        return f"{hours}h"
    if days < 8:
        return f"{days}d" + (f"{hours % 24}h" if hours % 24 else "")
    if days < 730:
        return f"{days}d"
    years, rest = divmod(days, 365)
    return f"{years}y" + (f"{rest}d" if years < 8 and rest else "")
