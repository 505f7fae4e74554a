"""The metadata every object has: what clients may set, and what only the server sets."""

from __future__ import annotations

from groundtune_local.kubeapi.errors import Cause, bad_request
from groundtune_local.kubeapi.objects import Obj, finalizers, is_deleting, name_problem
from groundtune_local.kubeapi.resources import NAMESPACES, Resource

_OF_THE_SERVER = (
    *("creationTimestamp", "deletionGracePeriodSeconds", "deletionTimestamp", "generation"),
    *("name", "namespace", "resourceVersion", "selfLink", "uid", "generateName"),
)


def take_over_system_fields(new: Obj, live: Obj) -> None:
    """Give ``new`` the metadata that updates can't change, in place."""
    metadata = new["metadata"]
    for name in _OF_THE_SERVER:
        metadata.pop(name, None)
        if name in live["metadata"]:
            metadata[name] = live["metadata"][name]
    for name in [n for n, value in metadata.items() if value in (None, {}, [], "") and n != "managedFields"]:
        del metadata[name]


def check_metadata_types(obj: Obj) -> None:
    """Raise ApiError 400 unless the object has metadata and what is in it is of the right types."""
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        raise bad_request(f"metadata has to be an object, not {metadata!r}")
    for name in ("name", "generateName", "namespace", "uid", "resourceVersion"):
        if not isinstance(metadata.get(name), str | None):
            raise bad_request(f"metadata.{name} has to be a string, not {metadata[name]!r}")
    for name in ("labels", "annotations"):
        values = metadata.get(name)
        if values is not None and not (
            isinstance(values, dict) and all(isinstance(value, str) for value in values.values())
        ):
            raise bad_request(f"metadata.{name} has to be an object whose values are strings")
    for name, type_ in (("finalizers", str), ("ownerReferences", dict), ("managedFields", dict)):
        values = metadata.get(name)
        if values is not None and not (
            isinstance(values, list) and all(isinstance(value, type_) for value in values)
        ):
            what = "strings" if type_ is str else "objects"
            raise bad_request(f"metadata.{name} has to be a list of {what}")


def check_metadata(resource: Resource, obj: Obj, old: Obj | None) -> list[Cause]:
    """What is wrong with an object's metadata, whose types have been checked."""
    metadata = obj["metadata"]
    causes = _name(resource, metadata)
    causes += _owner_references(metadata)
    total = sum(len(k) + len(v) for k, v in (metadata.get("annotations") or {}).items())
    if total > 256 * 1024:
        causes.append(
            Cause("FieldValueTooLong", "metadata.annotations", "Too long: may not be more than 262144 bytes")
        )
    if old is not None and is_deleting(old):
        added = [name for name in finalizers(obj) if name not in finalizers(old)]
        if added:
            message = (
                f"Forbidden: no new finalizers can be added if the object is being deleted, found {added}"
            )
            causes.append(Cause("FieldValueForbidden", "metadata.finalizers", message))
    return causes


def _name(resource: Resource, metadata: Obj) -> list[Cause]:
    name = metadata.get("name")
    if not name:
        return [
            Cause("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")
        ]
    problem = name_problem(name, label=resource == NAMESPACES)
    return (
        [Cause("FieldValueInvalid", "metadata.name", f'Invalid value: "{name}": {problem}')]
        if problem
        else []
    )


def _owner_references(metadata: Obj) -> list[Cause]:
    return [
        Cause(
            "FieldValueInvalid",
            f"metadata.ownerReferences[{index}].{name}",
            'Invalid value: "": must not be empty',
        )
        for index, reference in enumerate(metadata.get("ownerReferences") or ())
        for name in ("apiVersion", "kind", "name", "uid")
        if not reference.get(name)
    ]
