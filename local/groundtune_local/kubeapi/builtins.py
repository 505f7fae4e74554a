"""What the server itself fills in on built-in kinds when they are written."""

from __future__ import annotations

import base64

from groundtune_local.kubeapi.definitions import CLEANUP_FINALIZER, accept_definition, check_definition
from groundtune_local.kubeapi.errors import Cause
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.resources import CRDS, NAMESPACES, SECRETS, SERVICES, Resource
from groundtune_local.kubeapi.shapes import BUILTIN
from groundtune_local.kubeapi.validation import validate

NAMESPACE_FINALIZER = "kubernetes"


def complete(resource: Resource, obj: Obj, old: Obj | None) -> list[Cause]:
    """Complete a built-in object in place before it is stored; returns what is wrong with it."""
    causes = validate(obj, BUILTIN[resource.plural])
    if causes:
        return causes
    if resource == NAMESPACES:
        name = obj["metadata"]["name"]
        obj["metadata"].setdefault("labels", {})["kubernetes.io/metadata.name"] = name
        obj.setdefault("spec", {}).setdefault("finalizers", [NAMESPACE_FINALIZER])
        obj.setdefault("status", {}).setdefault("phase", "Active")
    elif resource == SECRETS:
        obj.setdefault("type", "Opaque")
        for name, text in (obj.pop("stringData", None) or {}).items():
            obj.setdefault("data", {})[name] = base64.b64encode(text.encode()).decode()
    elif resource == SERVICES:
        obj.setdefault("spec", {}).setdefault("type", "ClusterIP")
        obj.setdefault("status", {"loadBalancer": {}})
    elif resource == CRDS:
        return _complete_definition(obj, old)
    return []


def _complete_definition(obj: Obj, old: Obj | None) -> list[Cause]:
    causes = check_definition(obj)
    if old is not None and not causes:
        for field in ("group", "scope"):
            if obj["spec"][field] != old["spec"][field]:
                message = f'Invalid value: "{obj["spec"][field]}": field is immutable'
                causes.append(Cause("FieldValueInvalid", f"spec.{field}", message))
    if not causes:
        accept_definition(obj)
        if old is None:
            obj["metadata"].setdefault("finalizers", []).append(CLEANUP_FINALIZER)
    return causes
