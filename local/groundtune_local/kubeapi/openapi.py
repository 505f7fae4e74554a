"""OpenAPI documents from the served schemas: for ``kubectl explain`` and client-side validation."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from groundtune_local.kubeapi.objects import Obj, clone
from groundtune_local.kubeapi.resources import Registry, Resource, Schema
from groundtune_local.kubeapi.schema import EMBEDDED, INT_OR_STRING, PRESERVE, walk_schema

_META = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
_API_VERSION = "APIVersion defines the versioned schema of this representation of an object."
_KIND = "Kind is a string value representing the REST resource this object represents."
_TEXT = {"type": "string"}
_TEXT_MAP = {"type": "object", "additionalProperties": _TEXT}
_OBJECT_META: Schema = {
    "description": "ObjectMeta is metadata that all persisted resources must have.",
    "type": "object",
    "properties": {
        "annotations": {"description": "Unstructured data set by external tools.", **_TEXT_MAP},
        "creationTimestamp": {
            "description": "When the object was created.",
            "type": "string",
            "format": "date-time",
        },
        "deletionGracePeriodSeconds": {"type": "integer", "format": "int64"},
        "deletionTimestamp": {
            "description": "When its deletion was asked for.",
            "type": "string",
            "format": "date-time",
        },
        "finalizers": {
            "description": "What must be done before the object is deleted.",
            "type": "array",
            "items": _TEXT,
            "x-kubernetes-list-type": "set",
            "x-kubernetes-patch-strategy": "merge",
        },
        "generateName": {"description": "A prefix for a generated name.", **_TEXT},
        "generation": {
            "description": "Counts changes of the desired state.",
            "type": "integer",
            "format": "int64",
        },
        "labels": {"description": "What selectors select by.", **_TEXT_MAP},
        "managedFields": {"type": "array", "items": {"type": "object"}},
        "name": {"description": "Unique within a namespace.", **_TEXT},
        "namespace": _TEXT,
        "ownerReferences": {
            "description": "Objects this object depends on.",
            "type": "array",
            "items": {
                "type": "object",
                "required": ["apiVersion", "kind", "name", "uid"],
                "properties": {
                    **dict.fromkeys(("apiVersion", "kind", "name", "uid"), _TEXT),
                    **{name: {"type": "boolean"} for name in ("blockOwnerDeletion", "controller")},
                },
            },
            "x-kubernetes-list-map-keys": ["uid"],
            "x-kubernetes-list-type": "map",
        },
        "resourceVersion": _TEXT,
        "selfLink": _TEXT,
        "uid": _TEXT,
    },
}
_WRITE_PARAMETERS = ("dryRun", "fieldManager", "fieldValidation")
_PATCH_TYPES = ("application/merge-patch+json", "application/json-patch+json", "application/apply-patch+yaml")
_ACTIONS = {"get": "get", "put": "put", "patch": "patch", "delete": "delete", "post": "post"}


def v3_root(registry: Registry) -> Obj:
    """The answer at ``/openapi/v3``: where the document of each group and version is."""
    paths = {}
    for group, version in registry.versions():
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        digest = hashlib.sha256(orjson.dumps(v3_document(registry, group, version))).hexdigest()[:32]
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def v3_document(registry: Registry, group: str, version: str) -> Obj | None:
    """The OpenAPI 3 document of one group and version, or None where nothing is served."""
    resources = registry.versions().get((group, version))
    if not resources:
        return None
    schemas: Obj = {_META: _OBJECT_META}
    paths: Obj = {}
    for resource in resources:
        schemas[schema_name(resource)] = _schema(resource, "#/components/schemas/")
        paths.update(_paths(resource, v3=True))
    return {
        "openapi": "3.0.0",
        "info": {"title": "Groundtune local control plane", "version": "v1"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def v2_document(registry: Registry) -> Obj:
    """The OpenAPI 2 document of everything."""
    definitions: Obj = {_META: _OBJECT_META}
    paths: Obj = {}
    for resource in registry:
        definitions[schema_name(resource)] = _for_v2(_schema(resource, "#/definitions/"))
        paths.update(_paths(resource, v3=False))
    return {
        "swagger": "2.0",
        "info": {"title": "Groundtune local control plane", "version": "v1"},
        "paths": paths,
        "definitions": definitions,
    }


def schema_name(resource: Resource) -> str:
    """The name of a kind's schema, such as ``io.groundtune.v1alpha1.KnowledgeBase``."""
    if not resource.custom:
        package = resource.group.partition(".")[0] or "core"
        return f"io.k8s.api.{package}.{resource.version}.{resource.kind}"
    reverse = ".".join(reversed(resource.group.split(".")))
    return f"{reverse}.{resource.version}.{resource.kind}"


def _gvk(resource: Resource) -> Obj:
    return {"group": resource.group, "version": resource.version, "kind": resource.kind}


def _schema(resource: Resource, references: str) -> Schema:
    schema: Schema = clone(resource.schema) if resource.schema else {"type": "object", PRESERVE: True}
    schema.setdefault(
        "description", f"{resource.kind} is kept as it is written." if not resource.schema else ""
    )
    reference = f"{references}{_META}"
    metadata: Obj = {
        "description": "Standard object's metadata.",
        "allOf": [{"$ref": reference}],
        "default": {},
    }
    if references == "#/definitions/":
        metadata = {"$ref": reference}
    schema["properties"] = {
        "apiVersion": {"type": "string", "description": _API_VERSION},
        "kind": {"type": "string", "description": _KIND},
        **{k: v for k, v in (schema.get("properties") or {}).items() if k not in ("apiVersion", "kind")},
        "metadata": metadata,
    }
    schema["x-kubernetes-group-version-kind"] = [_gvk(resource)]
    return schema


def _for_v2(schema: Schema) -> Schema:
    """OpenAPI 2 lacks some words; as the API server does, say less where it can't say it all."""
    for _, node in list(walk_schema(schema)):
        for word in ("anyOf", "oneOf", "not", "nullable"):
            node.pop(word, None)
        if node.get(PRESERVE) or node.get(INT_OR_STRING) or node.get(EMBEDDED):
            node.pop("type", None) if node.get(INT_OR_STRING) else None
            node.pop("items", None)
    return schema


def _paths(resource: Resource, *, v3: bool) -> Obj:
    base = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    middle = "/namespaces/{namespace}" if resource.namespaced else ""
    collection = f"{base}{middle}/{resource.plural}"
    item: Obj = {verb: _operation(resource, verb, v3=v3) for verb in ("get", "put", "patch", "delete")}
    listed: Obj = {
        "get": _operation(resource, "get", v3=v3, action="list"),
        "post": _operation(resource, "post", v3=v3),
    }
    return {collection: listed, f"{collection}/{{name}}": item}


def _operation(resource: Resource, verb: str, *, v3: bool, action: str = "") -> Obj:
    reference = {"$ref": f"#/{'components/schemas' if v3 else 'definitions'}/{schema_name(resource)}"}
    operation: Obj = {
        "operationId": f"{action or verb}{resource.kind}{resource.version}",
        "responses": {"200": _content(reference, ["application/json"], v3=v3)},
        "x-kubernetes-action": action or _ACTIONS[verb],
        "x-kubernetes-group-version-kind": _gvk(resource),
    }
    names = (
        [*_WRITE_PARAMETERS, *(["force"] if verb == "patch" else [])]
        if verb in ("put", "post", "patch")
        else []
    )
    operation["parameters"] = [_parameter(name, v3=v3) for name in names]
    if verb == "patch":
        if v3:
            operation["requestBody"] = {
                "content": {kind: {"schema": {"type": "object"}} for kind in _PATCH_TYPES}
            }
        else:
            operation["consumes"] = list(_PATCH_TYPES)
    return operation


def _parameter(name: str, *, v3: bool) -> Obj:
    kind: Any = {"type": "boolean" if name == "force" else "string"}
    return {"name": name, "in": "query", **({"schema": kind} if v3 else kind)}


def _content(schema: Obj, media_types: list[str], *, v3: bool) -> Obj:
    if not v3:
        return {"description": "OK", "schema": schema}
    return {"description": "OK", "content": {media_type: {"schema": schema} for media_type in media_types}}
