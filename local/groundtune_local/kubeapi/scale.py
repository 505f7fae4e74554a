"""The scale subresource: an ``autoscaling/v1`` view on the replicas of an object."""

from __future__ import annotations

from typing import Any

from groundtune_local.kubeapi.errors import bad_request
from groundtune_local.kubeapi.jsonpath import find
from groundtune_local.kubeapi.objects import Obj, clone
from groundtune_local.kubeapi.resources import Resource


def scale_of(resource: Resource, obj: Obj) -> Obj:
    """The Scale that shows an object of a resource that has one."""
    paths = resource.scale or {}
    metadata = obj["metadata"]
    shown = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    status: Obj = {"replicas": _first(paths.get("statusReplicasPath"), obj, 0)}
    if paths.get("labelSelectorPath"):
        status["selector"] = _first(paths["labelSelectorPath"], obj, "")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in shown if name in metadata},
        "spec": {"replicas": _first(paths.get("specReplicasPath"), obj, 0)},
        "status": status,
    }


def _first(path: str | None, obj: Obj, otherwise: Any) -> Any:
    found = find(path, obj) if path else []
    return found[0] if found else otherwise


def scaled(resource: Resource, obj: Obj, scale: Obj) -> Obj:
    """A copy of the object with the replicas of the Scale. Raises ApiError 400."""
    replicas = (scale.get("spec") or {}).get("replicas")
    if not isinstance(replicas, int) or replicas < 0:
        raise bad_request(f"spec.replicas has to be a whole number from 0, not {replicas!r}")
    result: Obj = clone(obj)
    *steps, last = (resource.scale or {})["specReplicasPath"].strip(".").split(".")
    node = result
    for step in steps:
        node = node.setdefault(step, {})
    node[last] = replicas
    wanted = (scale.get("metadata") or {}).get("resourceVersion")
    if wanted:
        result["metadata"]["resourceVersion"] = wanted
    return result
