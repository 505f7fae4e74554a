"""JSON merge patch, JSON patch, and the strategic merge patch of built-in kinds."""

from __future__ import annotations

from typing import Any

import jsonpatch
import jsonpointer

from groundtune_local.kubeapi.errors import ApiError, bad_request
from groundtune_local.kubeapi.objects import clone

# The fields of built-in kinds whose lists merge by a key; every other list is replaced as a whole.
_MERGE_KEYS = {
    "conditions": "type",
    "imagePullSecrets": "name",
    "ownerReferences": "uid",
    "ports": "port",
    "secrets": "name",
}
_MERGED_VALUES = {"finalizers"}


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7386: objects merge, null deletes, everything else replaces. Returns a new value."""
    if not isinstance(patch, dict):
        return clone(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def json_patch(target: Any, operations: Any) -> Any:
    """RFC 6902. Returns a new value; raises ApiError when the patch is malformed or does not apply."""
    if not isinstance(operations, list):
        raise bad_request("a JSON patch has to be a list of operations")
    try:
        return jsonpatch.JsonPatch(operations).apply(target)
    except jsonpatch.JsonPatchTestFailed as exc:
        raise ApiError(
            422, "Invalid", f"the server rejected our request due to an error in our request: {exc}"
        ) from exc
    except (jsonpatch.JsonPatchException, jsonpointer.JsonPointerException, TypeError, KeyError) as exc:
        raise ApiError(422, "Invalid", f"the JSON patch can't be applied: {exc}") from exc


def strategic_merge_patch(target: Any, patch: Any, field: str = "") -> Any:
    """Kubernetes' merge patch that knows how lists of built-in kinds merge. Returns a new value."""
    if isinstance(patch, dict):
        return _merge_object(target if isinstance(target, dict) else {}, patch)
    present = list(target) if isinstance(target, list) else []
    if isinstance(patch, list) and field in _MERGE_KEYS:
        if not all(isinstance(item, dict) for item in (*patch, *present)):
            raise bad_request(f"{field} has to be a list of objects")
        return _merge_items(present, patch, _MERGE_KEYS[field])
    if isinstance(patch, list) and field in _MERGED_VALUES:
        return present + [value for value in patch if value not in present]
    return clone(patch)


def _merge_object(target: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    directive = patch.get("$patch")
    if directive == "delete":
        return {}
    if directive == "replace":
        whole: dict[str, Any] = clone({k: v for k, v in patch.items() if k != "$patch"})
        return whole
    result = dict(target)
    for name, value in patch.items():
        if name == "$retainKeys":
            result = {k: v for k, v in result.items() if k in (value or ())}
        elif name.startswith("$deleteFromPrimitiveList/"):
            listed = name.partition("/")[2]
            result[listed] = [item for item in result.get(listed) or [] if item not in value]
    for name, value in patch.items():
        if name.startswith("$"):
            continue
        if value is None:
            result.pop(name, None)
        else:
            result[name] = strategic_merge_patch(result.get(name), value, name)
    return result


def _merge_items(target: list[Any], patch: list[Any], key: str) -> list[Any]:
    result = list(target)
    for item in patch:
        place = next((i for i, present in enumerate(result) if present.get(key) == item.get(key)), None)
        if item.get("$patch") == "delete":
            if place is not None:
                del result[place]
        elif place is None:
            result.append(clone(item))
        else:
            result[place] = _merge_object(result[place], item)
    return result
