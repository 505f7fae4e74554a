"""Who manages which field: server-side apply, and the book-keeping of every other write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from groundtune_local.kubeapi.errors import ApiError, bad_request
from groundtune_local.kubeapi.fields import (
    Field,
    changed,
    describe,
    from_fields_v1,
    leaves,
    merge,
    ownable,
    ownership_schema,
    to_fields_v1,
    without,
)
from groundtune_local.kubeapi.objects import Obj, clone, now
from groundtune_local.kubeapi.resources import Resource

_KUBECTL = "kubectl"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@dataclass(frozen=True)
class Manager:
    """One entry of ``managedFields``: who wrote, how (Apply or Update), through which subresource."""

    name: str
    operation: str
    subresource: str
    api_version: str


@dataclass
class _Owned:
    fields: set[Field]
    time: str


Owners = dict[Manager, _Owned]


def _read(obj: Obj | None) -> Owners:
    owners: Owners = {}
    for entry in ((obj or {}).get("metadata") or {}).get("managedFields") or ():
        if not entry.get("manager") and not entry.get("fieldsV1"):
            continue  # an empty entry is how clients ask to start over
        manager = Manager(
            str(entry.get("manager", "")),
            str(entry.get("operation", "Update")),
            str(entry.get("subresource", "")),
            str(entry.get("apiVersion", "")),
        )
        owners[manager] = _Owned(from_fields_v1(entry.get("fieldsV1") or {}), str(entry.get("time") or now()))
    return owners


def _write(obj: Obj, owners: Owners) -> None:
    entries = []
    for manager, owned in sorted(owners.items(), key=lambda pair: (pair[1].time, pair[0].name)):
        if not owned.fields:
            continue
        entry = {
            "manager": manager.name,
            "operation": manager.operation,
            "apiVersion": manager.api_version,
            "time": owned.time,
            "fieldsType": "FieldsV1",
            "fieldsV1": to_fields_v1(owned.fields),
        }
        if manager.subresource:
            entry["subresource"] = manager.subresource
        entries.append(entry)
    if entries:
        obj["metadata"]["managedFields"] = entries
    else:
        obj["metadata"].pop("managedFields", None)


def record_update(old: Obj | None, new: Obj, resource: Resource, manager: str, subresource: str) -> None:
    """Note in ``new`` that ``manager`` now owns what it changed from ``old`` and the others no longer
    do. Entries that the writer itself edited or cleared count as they are."""
    edited = new["metadata"].get("managedFields")
    base = new if edited is not None else old
    owners = _read(base)
    schema = ownership_schema(resource)
    before = leaves(ownable(old or {}, status=False, whole=True), schema)
    after = leaves(ownable(new, status=False, whole=True), schema)
    differing, gone = changed(before, after)
    who = Manager(manager, "Update", subresource, resource.api_version)
    for owned in owners.values():
        owned.fields -= differing | gone
    if differing:
        mine = owners.setdefault(who, _Owned(set(), now()))
        mine.fields |= differing
        mine.time = now()
    _write(new, owners)


def apply(
    live: Obj | None, config: Obj, resource: Resource, manager: str, subresource: str, *, force: bool
) -> Obj:
    """The object after a server-side apply of ``config``. Fields the manager applied before and now
    leaves out are removed unless someone else owns them too. Raises ApiError 409 on conflicts."""
    if (config.get("metadata") or {}).get("managedFields"):
        raise bad_request("metadata.managedFields must be nil")
    schema = ownership_schema(resource)
    status = subresource == "status"
    part = ownable(config, status=status, whole=not resource.has_status)
    applied = leaves(part, schema)
    owners = _read(live)
    me = Manager(manager, "Apply", subresource, resource.api_version)
    others = {who: owned for who, owned in owners.items() if who != me}
    base = ownable(live or {}, status=False, whole=True)
    merged = merge(base, part, schema)
    differing, _ = changed(leaves(base, schema), leaves(merged, schema))
    conflicts = {who: differing & owned.fields for who, owned in others.items() if differing & owned.fields}
    if conflicts and not force:
        adopted = _last_applied(live, resource) if manager == _KUBECTL else set()
        remaining = {who: fields - adopted for who, fields in conflicts.items() if fields - adopted}
        if remaining:
            raise _conflict(remaining)
    for who, fields in conflicts.items():
        others[who].fields -= fields
    previous = owners.get(me)
    if previous is not None:
        kept = set(applied).union(*(owned.fields for owned in others.values()))
        merged = without(merged, previous.fields - kept, schema)
    result = _assemble(live, config, merged)
    unchanged = previous is not None and previous.fields == set(applied) and not differing
    others[me] = _Owned(set(applied), previous.time if unchanged and previous else now())
    _write(result, others)
    return result


def _last_applied(live: Obj | None, resource: Resource) -> set[Field]:
    """The fields that ``kubectl apply`` set without server-side apply. The same user moves over to it by
    applying once more, so these make no conflict."""
    text = ((live or {}).get("metadata", {}).get("annotations") or {}).get(_LAST_APPLIED)
    try:
        config = orjson.loads(text or "{}")
    except orjson.JSONDecodeError:
        return set()
    return set(leaves(ownable(config, status=False, whole=True), ownership_schema(resource)))


def _assemble(live: Obj | None, config: Obj, merged: Obj) -> Obj:
    base: Obj = live if live is not None else config
    result: Obj = {"apiVersion": config["apiVersion"], "kind": config["kind"]}
    system = {
        k: v
        for k, v in base["metadata"].items()
        if k not in ("labels", "annotations", "finalizers", "ownerReferences")
    }
    result["metadata"] = clone({**system, **merged.pop("metadata", {})})
    result.update(merged)
    wanted = config["metadata"].get("resourceVersion")
    if wanted:
        result["metadata"]["resourceVersion"] = wanted
    return result


def _conflict(conflicts: dict[Manager, set[Field]]) -> ApiError:
    causes: list[dict[str, Any]] = []
    lines: list[str] = []
    for who, fields in sorted(conflicts.items(), key=lambda pair: pair[0].name):
        via = f' with subresource "{who.subresource}"' if who.subresource else ""
        against = f'conflict with "{who.name}"{via} using {who.api_version}'
        names = sorted(describe(field) for field in fields)
        lines.append(f"{against}: {names[0]}" if len(names) == 1 else f"{against}:\n- " + "\n- ".join(names))
        causes += [{"reason": "FieldManagerConflict", "message": against, "field": name} for name in names]
    count = len(causes)
    message = f"Apply failed with {count} conflict{'s' if count > 1 else ''}: " + "\n".join(lines)
    return ApiError(409, "Conflict", message, {"causes": causes})
