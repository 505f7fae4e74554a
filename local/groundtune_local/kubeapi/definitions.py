"""Custom resource definitions: what they may say, their status, and the resources they make."""

from __future__ import annotations

from dataclasses import replace

import re2  # type: ignore[import-untyped]

from groundtune_local.kubeapi.cel import CelError, check_rule
from groundtune_local.kubeapi.errors import Cause
from groundtune_local.kubeapi.jsonpath import JsonPathError, compile_path
from groundtune_local.kubeapi.objects import Obj, name_problem, now
from groundtune_local.kubeapi.resources import Column, Resource, Schema
from groundtune_local.kubeapi.schema import (
    INT_OR_STRING,
    LIST_KEYS,
    LIST_TYPE,
    PRESERVE,
    VALIDATIONS,
    walk_schema,
)
from groundtune_local.kubeapi.shapes import NODE
from groundtune_local.kubeapi.validation import invalid, validate

CLEANUP_FINALIZER = "customresourcecleanup.apiextensions.k8s.io"


def _fill(definition: Obj) -> None:
    definition["spec"].setdefault("conversion", {"strategy": "None"})
    names = definition["spec"]["names"]
    names.setdefault("singular", names["kind"].lower())
    names.setdefault("listKind", f"{names['kind']}List")


def check_definition(definition: Obj) -> list[Cause]:
    """Everything that is wrong with a definition, which has to have the shape of one. It is filled in on
    the way, in place."""
    causes: list[Cause] = []
    _fill(definition)
    spec = definition["spec"]
    names = spec["names"]
    expected = f"{names['plural']}.{spec['group']}"
    if definition["metadata"]["name"] != expected:
        why = f'must be spec.names.plural+"."+spec.group ({expected})'
        causes.append(invalid("metadata.name", definition["metadata"]["name"], why))
    if problem := name_problem(names["plural"], label=True):
        causes.append(invalid("spec.names.plural", names["plural"], problem))
    if spec["conversion"]["strategy"] != "None":
        why = "the local control plane converts between versions with strategy None only"
        causes.append(invalid("spec.conversion.strategy", spec["conversion"]["strategy"], why))
    stored = [version["name"] for version in spec["versions"] if version["storage"]]
    if len(stored) != 1:
        causes.append(
            invalid("spec.versions", stored, "must have exactly one version marked as storage version")
        )
    for index, version in enumerate(spec["versions"]):
        causes += _check_version(version, f"spec.versions[{index}]")
    return causes


def _check_version(version: Obj, where: str) -> list[Cause]:
    causes: list[Cause] = []
    schema = version["schema"]["openAPIV3Schema"]
    root = f"{where}.schema.openAPIV3Schema"
    if schema.get("type") != "object":
        causes.append(invalid(f"{root}.type", schema.get("type"), "must be object at the root"))
    for path, node in walk_schema(schema, root):
        shape = validate(node, NODE)
        if shape:  # what is inside can't be looked at
            return [*causes, *(replace(cause, field=f"{path}.{cause.field}") for cause in shape)]
        causes += _check_node(node, path)
    for index, column in enumerate(version.get("additionalPrinterColumns") or ()):
        try:
            compile_path(column["jsonPath"])
        except JsonPathError as exc:
            field = f"{where}.additionalPrinterColumns[{index}].jsonPath"
            causes.append(invalid(field, column["jsonPath"], str(exc)))
    return causes


def _check_node(node: Schema, path: str) -> list[Cause]:
    causes: list[Cause] = []
    in_junctor = any(f".{junctor}[" in path for junctor in ("allOf", "anyOf", "oneOf"))
    if not node.get("type") and not in_junctor and not node.get(INT_OR_STRING) and not node.get(PRESERVE):
        causes.append(_required(f"{path}.type", "must not be empty for specified object fields"))
    if "$ref" in node:
        causes.append(Cause("FieldValueForbidden", f"{path}.$ref", "Forbidden: $ref is not supported"))
    if node.get("type") == "array" and not in_junctor and "items" not in node:
        causes.append(_required(f"{path}.items", "must be specified"))
    if node.get(LIST_TYPE) == "map" and not node.get(LIST_KEYS):
        causes.append(_required(f"{path}.{LIST_KEYS}", "must not be empty if the list is a map"))
    if "pattern" in node:
        try:
            re2.compile(node["pattern"])
        except re2.error as exc:
            why = f"must be a valid regular expression: {exc}"
            causes.append(invalid(f"{path}.pattern", node["pattern"], why))
    for index, rule in enumerate(node.get(VALIDATIONS) or ()):
        for part in ("rule", "messageExpression"):
            try:
                if part in rule:
                    check_rule(rule[part])
            except CelError as exc:
                causes.append(invalid(f"{path}.{VALIDATIONS}[{index}].{part}", rule[part], str(exc)))
    return causes


def _required(field: str, why: str) -> Cause:
    return Cause("FieldValueRequired", field, f"Required value: {why}")


def accept_definition(definition: Obj) -> None:
    """Set the status of a definition that is served from now on, in place."""
    names = definition["spec"]["names"]
    status = definition.setdefault("status", {})
    stored = next(v["name"] for v in definition["spec"]["versions"] if v["storage"])
    if stored not in status.setdefault("storedVersions", []):
        status["storedVersions"].append(stored)
    status["acceptedNames"] = dict(names)
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    for type_, reason, message in (
        ("NamesAccepted", "NoConflicts", "no conflicts found"),
        ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
    ):
        conditions.setdefault(
            type_,
            {
                "type": type_,
                "status": "True",
                "reason": reason,
                "message": message,
                "lastTransitionTime": now(),
            },
        )
    status["conditions"] = list(conditions.values())


def resources_of(definition: Obj) -> list[Resource]:
    """One resource per served version, the storage version always among them."""
    spec = definition["spec"]
    served = [version for version in spec["versions"] if version.get("served", True)]
    storage = next(v["name"] for v in spec["versions"] if v["storage"])
    return [_resource(spec, version, storage=version["name"] == storage) for version in served]


def _resource(spec: Obj, version: Obj, *, storage: bool) -> Resource:
    names = spec["names"]
    subresources = version.get("subresources") or {}
    deprecation = ""
    if version.get("deprecated"):
        deprecation = (
            version.get("deprecationWarning")
            or f"{spec['group']}/{version['name']} {names['kind']} is deprecated"
        )
    return Resource(
        group=spec["group"],
        version=version["name"],
        plural=names["plural"],
        singular=names["singular"],
        kind=names["kind"],
        list_kind=names["listKind"],
        namespaced=spec["scope"] == "Namespaced",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        schema=version["schema"]["openAPIV3Schema"],
        columns=tuple(_column(column) for column in version.get("additionalPrinterColumns") or ()),
        selectable=tuple(f["jsonPath"].removeprefix(".") for f in version.get("selectableFields") or ()),
        has_status="status" in subresources,
        scale=subresources.get("scale"),
        custom=True,
        storage_version=storage,
        deprecation=deprecation,
    )


def _column(column: Obj) -> Column:
    return Column(
        name=column["name"],
        type=column["type"],
        path=column["jsonPath"],
        description=column.get("description", ""),
        priority=column.get("priority", 0),
        format=column.get("format", ""),
    )
