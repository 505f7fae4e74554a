"""Keeps the registry of served resources in step with the stored definitions."""

from __future__ import annotations

from groundtune_local.kubeapi.definitions import resources_of
from groundtune_local.kubeapi.objects import Obj
from groundtune_local.kubeapi.resources import CRDS, Registry, Resource
from groundtune_local.kubeapi.schema import fill_defaults, prune_object
from groundtune_local.kubeapi.store import Key, Store


class DefinitionsFollower:
    """Serves what custom resource definitions declare, from the moment they are written."""

    def __init__(self, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def load(self) -> None:
        """Serve all stored definitions."""
        for _, definition in self._store.entries(CRDS.qualified):
            self._serve(definition)

    def written(self, resource: Resource, key: Key, obj: Obj) -> None:
        if resource == CRDS:
            self._serve(obj)

    def removed(self, resource: Resource, key: Key, obj: Obj) -> None:
        if resource == CRDS:
            self._registry.replace(key.name, ())

    def _serve(self, definition: Obj) -> None:
        name = definition["metadata"]["name"]
        resources = resources_of(definition)
        if resources == [r for r in self._registry if r.qualified == name]:
            return
        self._registry.replace(name, resources)
        storage = next((r for r in resources if r.storage_version), None)
        if storage is not None and storage.schema is not None:
            self._reread(storage)

    def _reread(self, resource: Resource) -> None:
        """Show the stored objects as the schema has it now: without fields it dropped, with defaults it
        gained. As in Kubernetes, what is stored changes only when it is next written."""
        schema = resource.schema or {}

        def convert(obj: Obj) -> None:
            prune_object(obj, schema)
            fill_defaults(obj, schema)

        self._store.reread(resource.qualified, convert)
