"""Creating, updating and deleting objects: the rules of the API, apart from HTTP.

Everything here runs to its end without giving way to other tasks, so what is read is still true when
it is written.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from groundtune_local.kubeapi import errors
from groundtune_local.kubeapi.builtins import complete
from groundtune_local.kubeapi.cel import check_rules
from groundtune_local.kubeapi.metadata import check_metadata, check_metadata_types, take_over_system_fields
from groundtune_local.kubeapi.objects import Obj, clone, finalizers, generated_name, is_deleting, now
from groundtune_local.kubeapi.ownership import apply as apply_config
from groundtune_local.kubeapi.ownership import record_update
from groundtune_local.kubeapi.resources import NAMESPACES, Registry, Resource
from groundtune_local.kubeapi.schema import fill_defaults, prune_object
from groundtune_local.kubeapi.store import Key, Store
from groundtune_local.kubeapi.validation import newly_broken, validate

FieldValidation = Literal["Strict", "Warn", "Ignore"]
Policy = Literal["Background", "Foreground", "Orphan"]
_POLICY_FINALIZER = {"Foreground": "foregroundDeletion", "Orphan": "orphan"}


@dataclass(frozen=True)
class WriteOptions:
    """How a client wants its write: ``warnings`` collects what it should be told besides."""

    manager: str = "unknown"
    validation: FieldValidation = "Warn"
    dry_run: bool = False
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DeleteOptions:
    """``uid`` and ``resource_version`` are preconditions."""

    policy: Policy = "Background"
    uid: str | None = None
    resource_version: str | None = None
    dry_run: bool = False


class Listener(Protocol):
    """Told of every write after it is done."""

    def written(self, resource: Resource, key: Key, obj: Obj) -> None: ...

    def removed(self, resource: Resource, key: Key, obj: Obj) -> None: ...


class Writer:
    """All writes go through here. Methods raise ApiError; what they return must not be changed."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry
        self.listeners: list[Listener] = []

    def read(self, resource: Resource, key: Key) -> Obj:
        """The object at ``key``, in the version of ``resource``."""
        obj = self._store.get(key)
        if obj is None:
            raise errors.not_found(resource, key.name)
        return in_version(resource, obj)

    def create(
        self, resource: Resource, namespace: str, obj: Obj, options: WriteOptions, *, owned: bool = False
    ) -> Obj:
        """Store a new object. ``owned`` says that its managed fields are set already."""
        self._check_identity(resource, namespace, None, obj)
        metadata = obj["metadata"]
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = generated_name(metadata["generateName"])
        name = metadata.get("name") or ""
        if metadata.get("resourceVersion"):
            raise errors.bad_request("resourceVersion should not be set on objects to be created")
        key = Key(resource.qualified, namespace, name)
        self._check_namespace(resource, key)
        if self._store.get(key) is not None:
            raise errors.already_exists(resource, name)
        if resource.custom and resource.has_status:
            obj.pop("status", None)
        for system in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation", "selfLink"):
            metadata.pop(system, None)
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        if resource.tracks_generation:
            metadata["generation"] = 1
        self._admit(resource, obj, None, options)
        if not owned:
            record_update(None, obj, resource, options.manager, "")
        if options.dry_run:
            return obj
        stored = self._store.put(key, obj)
        self._tell(resource, key, stored)
        return stored

    def update(
        self,
        resource: Resource,
        key: Key,
        obj: Obj,
        options: WriteOptions,
        *,
        subresource: str = "",
        owned: bool = False,
    ) -> Obj:
        """Replace an object, or its status alone. Where the object carries a resource version it has to
        be the current one. Nothing is written, and no watch sees anything, where nothing changes."""
        live = self.read(resource, key)
        self._check_identity(resource, key.namespace, key.name, obj)
        given = obj["metadata"]
        if given.get("uid") and given["uid"] != live["metadata"]["uid"]:
            raise errors.precondition_failed(resource, key.name, "UID", given["uid"], live["metadata"]["uid"])
        if given.get("resourceVersion") and given["resourceVersion"] != live["metadata"]["resourceVersion"]:
            raise errors.conflict(resource, key.name, errors.STALE)
        new = _combine(resource, live, obj, subresource)
        take_over_system_fields(new, live)
        self._admit(resource, new, live, options)
        if resource.tracks_generation and _desired(resource, new) != _desired(resource, live):
            new["metadata"]["generation"] = live["metadata"]["generation"] + 1
        if not owned:
            record_update(live, new, resource, options.manager, subresource)
        if is_deleting(live) and not _is_held(resource, new):
            return new if options.dry_run else self._remove(resource, key, new)
        if options.dry_run or _same(new, live):
            return live if _same(new, live) else new
        stored = self._store.put(key, self._stored(resource, new))
        self._tell(resource, key, stored)
        return in_version(resource, stored)

    def patch(
        self,
        resource: Resource,
        key: Key,
        change: Callable[[Obj], Any],
        options: WriteOptions,
        *,
        subresource: str = "",
    ) -> Obj:
        """Update an object to what ``change`` makes of it; ``change`` must not alter its argument."""
        changed = change(self.read(resource, key))
        if not isinstance(changed, dict):
            raise errors.bad_request("the patch does not leave an object")
        return self.update(resource, key, clone(changed), options, subresource=subresource)

    def apply(
        self,
        resource: Resource,
        key: Key,
        config: Obj,
        options: WriteOptions,
        *,
        subresource: str,
        force: bool,
    ) -> tuple[Obj, bool]:
        """Server-side apply. Returns the object, and whether it is new."""
        self._check_identity(resource, key.namespace, key.name, config)
        config["metadata"].setdefault("name", key.name)
        self._prune(resource, config, options)
        mistyped = [c for c in validate(config, resource.schema or {}) if c.reason == "FieldValueTypeInvalid"]
        if mistyped:
            raise errors.invalid(resource, key.name, mistyped)
        stored = self._store.get(key)
        if stored is None and subresource:
            raise errors.not_found(resource, key.name)
        live = in_version(resource, stored) if stored is not None else None
        merged = apply_config(live, config, resource, options.manager, subresource, force=force)
        if live is None:
            return self.create(resource, key.namespace, merged, options, owned=True), True
        return self.update(resource, key, merged, options, subresource=subresource, owned=True), False

    def delete(self, resource: Resource, key: Key, options: DeleteOptions) -> tuple[Obj, bool]:
        """Delete an object, or mark it where finalizers hold it. Returns its last state, and whether it
        is gone now."""
        live = self.read(resource, key)
        for wanted, actual, what in (
            (options.uid, live["metadata"]["uid"], "UID"),
            (options.resource_version, live["metadata"]["resourceVersion"], "ResourceVersion"),
        ):
            if wanted is not None and wanted != actual:
                raise errors.precondition_failed(resource, key.name, what, wanted, actual)
        new = clone(live)
        extra = _POLICY_FINALIZER.get(options.policy)
        if extra and not is_deleting(live):
            new["metadata"]["finalizers"] = [*finalizers(live), extra]
        if not _is_held(resource, new):
            return (new, True) if options.dry_run else (self._remove(resource, key, new), True)
        if is_deleting(live):
            return live, False
        new["metadata"]["deletionTimestamp"] = now()
        new["metadata"]["deletionGracePeriodSeconds"] = 0
        if resource.tracks_generation:
            new["metadata"]["generation"] += 1
        if resource == NAMESPACES:
            new["status"]["phase"] = "Terminating"
        if options.dry_run:
            return new, False
        stored = self._store.put(key, self._stored(resource, new))
        self._tell(resource, key, stored)
        return in_version(resource, stored), False

    def _remove(self, resource: Resource, key: Key, final: Obj) -> Obj:
        removed = self._store.remove(key, self._stored(resource, final))
        for listener in self.listeners:
            listener.removed(resource, key, removed)
        return in_version(resource, removed)

    def _tell(self, resource: Resource, key: Key, obj: Obj) -> None:
        for listener in self.listeners:
            listener.written(resource, key, obj)

    def _stored(self, resource: Resource, obj: Obj) -> Obj:
        """The object in the storage version of its kind."""
        storage = next((r for r in self._registry.storages() if r.qualified == resource.qualified), resource)
        obj["apiVersion"] = storage.api_version
        return obj

    def _admit(self, resource: Resource, obj: Obj, old: Obj | None, options: WriteOptions) -> None:
        name = obj["metadata"].get("name") or ""
        causes = check_metadata(resource, obj, old)
        self._prune(resource, obj, options)
        if resource.schema is not None:
            fill_defaults(obj, resource.schema)
            broken = newly_broken(validate(obj, resource.schema), obj, old)
            # Rules may count on the types the schema promises, so they wait until those hold.
            causes += broken or check_rules(obj, resource.schema, old)
        elif not causes:
            causes = complete(resource, obj, old)
        if causes:
            raise errors.invalid(resource, name, causes)

    def _prune(self, resource: Resource, obj: Obj, options: WriteOptions) -> None:
        unknown = [f'unknown field "{path}"' for path in prune_object(obj, resource.schema)]
        if unknown and options.validation == "Strict":
            raise errors.bad_request(
                f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: '
                f"strict decoding error: {', '.join(unknown)}"
            )
        if options.validation == "Warn":
            options.warnings.extend(warning for warning in unknown if warning not in options.warnings)

    def _check_identity(self, resource: Resource, namespace: str, name: str | None, obj: Obj) -> None:
        api_version = obj.setdefault("apiVersion", resource.api_version)
        kind = obj.setdefault("kind", resource.kind)
        if (api_version, kind) != (resource.api_version, resource.kind):
            raise errors.bad_request(
                f"{kind} in version {api_version!r} does not match what this address takes: "
                f"{resource.kind} in version {resource.api_version!r}"
            )
        check_metadata_types(obj)
        given = obj["metadata"].get("name")
        if name is not None and given and given != name:
            raise errors.bad_request(
                f"the name of the object ({given}) does not match the name on the URL ({name})"
            )
        if resource.namespaced:
            obj["metadata"]["namespace"] = obj["metadata"].get("namespace") or namespace
            if obj["metadata"]["namespace"] != namespace:
                raise errors.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        else:
            obj["metadata"].pop("namespace", None)

    def _check_namespace(self, resource: Resource, key: Key) -> None:
        if not resource.namespaced:
            return
        namespace = self._store.get(Key(NAMESPACES.qualified, "", key.namespace))
        if namespace is None:
            raise errors.not_found(NAMESPACES, key.namespace)
        if is_deleting(namespace):
            why = f"unable to create new content in namespace {key.namespace} because it is being terminated"
            raise errors.forbidden(resource, key.name, why)


def in_version(resource: Resource, obj: Obj) -> Obj:
    """The object as this version of its kind shows it."""
    if obj.get("apiVersion") == resource.api_version:
        return obj
    return {**obj, "apiVersion": resource.api_version}


def _is_held(resource: Resource, obj: Obj) -> bool:
    """Whether finalizers keep an object from going."""
    return bool(finalizers(obj)) or bool(resource == NAMESPACES and obj["spec"].get("finalizers"))


def _combine(resource: Resource, live: Obj, given: Obj, subresource: str) -> Obj:
    """What a write through the main address, or through ``status``, may change of the live object."""
    if subresource == "status":
        new: Obj = {k: v for k, v in clone(live).items() if k != "status"}
        if "status" in given:
            new["status"] = given["status"]
        managed = given["metadata"].get("managedFields")
        if managed is not None:
            new["metadata"]["managedFields"] = managed
        return new
    if resource.has_status:
        given.pop("status", None)
        if "status" in live:
            given["status"] = clone(live["status"])
    return given


def _desired(resource: Resource, obj: Obj) -> Obj:
    """The part of an object whose change makes a new generation."""
    hidden = ("metadata", "status") if resource.has_status else ("metadata",)
    return {k: v for k, v in obj.items() if k not in hidden}


def _same(new: Obj, live: Obj) -> bool:
    def comparable(obj: Obj) -> Obj:
        metadata = {k: v for k, v in obj["metadata"].items() if k not in ("managedFields", "resourceVersion")}
        entries = obj["metadata"].get("managedFields") or ()
        owners = [{k: v for k, v in entry.items() if k != "time"} for entry in entries]
        return {**obj, "metadata": metadata, "managedFields": sorted(owners, key=repr)}

    return comparable(new) == comparable(live)
