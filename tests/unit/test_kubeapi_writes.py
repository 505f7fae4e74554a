"""The rules of writing, on a store of their own."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from groundtune_local.kubeapi.errors import ApiError
from groundtune_local.kubeapi.patch import merge_patch
from groundtune_local.kubeapi.resources import BUILTIN, CRDS, NAMESPACES, Registry, Resource
from groundtune_local.kubeapi.served import DefinitionsFollower
from groundtune_local.kubeapi.store import Key, Store
from groundtune_local.kubeapi.writes import DeleteOptions, WriteOptions, Writer

_OPTIONS = WriteOptions(manager="test")
_PART = {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}
_SPEC: dict[str, Any] = {
    "type": "object",
    "properties": {
        "size": {"type": "integer", "default": 1},
        "parts": {
            "type": "array",
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": _PART,
        },
        "tags": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}},
    },
}
_STATUS = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}


def _definition(spec: dict[str, Any]) -> dict[str, Any]:
    schema = {"type": "object", "properties": {"spec": spec, "status": _STATUS}}
    version = {
        "name": "v1",
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": schema},
        "subresources": {"status": {}},
    }
    return {
        "metadata": {"name": "things.example.dev"},
        "spec": {
            "group": "example.dev",
            "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing"},
            "versions": [version],
        },
    }


class _Plane:
    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "db", history=1000)
        self.registry = Registry()
        self.writer = Writer(self.store, self.registry)
        self.writer.listeners.append(DefinitionsFollower(self.store, self.registry))
        self.writer.create(NAMESPACES, "", {"metadata": {"name": "default"}}, _OPTIONS)
        self.writer.create(CRDS, "", _definition(copy.deepcopy(_SPEC)), _OPTIONS)

    @property
    def things(self) -> Resource:
        found = self.registry.find("example.dev", "v1", "things")
        assert found
        return found

    def create(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return self.writer.create(
            self.things, "default", {"metadata": {"name": name}, "spec": spec}, _OPTIONS
        )

    def merge(self, name: str, patch: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        key = Key("things.example.dev", "default", name)
        return self.writer.patch(
            self.things, key, lambda obj: merge_patch(obj, patch), _OPTIONS, subresource=subresource
        )


@pytest.fixture
def plane(tmp_path: Path) -> _Plane:
    return _Plane(tmp_path)


def test_a_changed_schema_shows_in_objects_that_are_there(plane: _Plane) -> None:
    plane.create("a", {"tags": ["x"]})
    changed = copy.deepcopy(_SPEC)
    del changed["properties"]["tags"]
    changed["properties"]["color"] = {"type": "string", "default": "red"}
    key = Key(CRDS.qualified, "", "things.example.dev")
    plane.writer.patch(
        CRDS, key, lambda obj: merge_patch(obj, {"spec": _definition(changed)["spec"]}), _OPTIONS
    )
    shown = plane.writer.read(plane.things, Key("things.example.dev", "default", "a"))
    assert shown["spec"] == {"size": 1, "color": "red"}


def test_stricter_schemas_leave_old_objects_writable(plane: _Plane) -> None:
    plane.create("a", {"size": 9})
    stricter = copy.deepcopy(_SPEC)
    stricter["properties"]["size"] |= {"maximum": 5}
    stricter["x-kubernetes-validations"] = [{"rule": "self.size < 5"}]
    key = Key(CRDS.qualified, "", "things.example.dev")
    plane.writer.patch(
        CRDS, key, lambda obj: merge_patch(obj, {"spec": _definition(stricter)["spec"]}), _OPTIONS
    )
    plane.merge("a", {"status": {"ok": True}}, "status")
    plane.merge("a", {"metadata": {"labels": {"a": "b"}}})
    with pytest.raises(ApiError, match=r"spec\.size: Invalid value: 8"):
        plane.merge("a", {"spec": {"size": 8}})


def test_finalizers_hold_an_object_and_none_come_after(plane: _Plane) -> None:
    plane.create("a", {})
    plane.merge("a", {"metadata": {"finalizers": ["example.dev/x"]}})
    key = Key("things.example.dev", "default", "a")
    marked, gone = plane.writer.delete(plane.things, key, DeleteOptions())
    assert not gone and marked["metadata"]["generation"] == 2
    again, gone = plane.writer.delete(plane.things, key, DeleteOptions())
    assert not gone and again == marked
    with pytest.raises(ApiError, match="no new finalizers can be added"):
        plane.merge("a", {"metadata": {"finalizers": ["example.dev/x", "example.dev/y"]}})
    plane.merge("a", {"metadata": {"finalizers": None}})
    assert plane.store.get(key) is None


def test_preconditions_guard_deletions(plane: _Plane) -> None:
    plane.create("a", {})
    key = Key("things.example.dev", "default", "a")
    with pytest.raises(ApiError, match="UID in precondition: other"):
        plane.writer.delete(plane.things, key, DeleteOptions(uid="other"))
    assert plane.store.get(key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metadata": {"name": "others.example.dev"}}, "metadata.name"),
        ({"spec": {"scope": "Galaxy"}}, 'spec.scope: Unsupported value: "Galaxy"'),
        ({"spec": {"versions": []}}, "spec.versions in body should have at least 1 items"),
        ({"spec": {"names": {"kind": None}}}, "spec.names.kind: Required value"),
        ({"spec": {"conversion": {"strategy": "Webhook"}}}, "strategy None only"),
    ],
)
def test_definitions_that_can_not_be_served_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    writer = Writer(Store(tmp_path / "db", history=10), Registry())
    with pytest.raises(ApiError) as refused:
        writer.create(CRDS, "", merge_patch(_definition(_SPEC), change), _OPTIONS)
    assert refused.value.code == 422
    assert message in refused.value.message


@pytest.mark.parametrize(
    ("node", "message"),
    [
        ({"type": "strnig"}, 'type: Unsupported value: "strnig"'),
        ({"type": "array"}, "items: Required value"),
        ({"properties": {}}, "type: Required value"),
        ({"type": "string", "pattern": "("}, "must be a valid regular expression"),
        ({"type": "object", "properties": []}, "properties in body must be of type object"),
        ({"type": "array", "items": _PART, "x-kubernetes-list-type": "map"}, "x-kubernetes-list-map-keys"),
    ],
)
def test_schemas_that_make_no_sense_are_refused(tmp_path: Path, node: dict[str, Any], message: str) -> None:
    writer = Writer(Store(tmp_path / "db", history=10), Registry())
    with pytest.raises(ApiError) as refused:
        writer.create(CRDS, "", _definition({"type": "object", "properties": {"odd": node}}), _OPTIONS)
    assert refused.value.code == 422
    assert "spec].properties[odd]" in refused.value.message
    assert message in refused.value.message


_NAMES = st.sampled_from(
    [
        *(
            "spec",
            "metadata",
            "status",
            "name",
            "size",
            "tags",
            "parts",
            "labels",
            "annotations",
            "finalizers",
        ),
        *(
            "ownerReferences",
            "managedFields",
            "data",
            "stringData",
            "versions",
            "names",
            "schema",
            "properties",
        ),
        *(
            "openAPIV3Schema",
            "items",
            "type",
            "manager",
            "fieldsV1",
            "f:spec",
            "uid",
            "involvedObject",
            "ports",
        ),
    ]
)
_SCALARS = st.none() | st.booleans() | st.integers(-5, 12) | st.sampled_from(["", "a", "object", "red"])
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.sampled_from([*BUILTIN, None]),
    st.lists(st.dictionaries(_NAMES, _JSON, max_size=4), min_size=2, max_size=2),
)
def test_whatever_is_sent_is_stored_or_refused(
    built_in: Resource | None, bodies: list[dict[str, Any]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        plane = _Plane(Path(folder))
        resource = built_in or plane.things
        namespace = "default" if resource.namespaced else ""
        key = Key(resource.qualified, namespace, "it")
        first, second = bodies
        if isinstance(first.setdefault("metadata", {}), dict):
            first["metadata"]["name"] = "it"
        writes = (
            lambda: plane.writer.create(resource, namespace, copy.deepcopy(first), _OPTIONS),
            lambda: plane.writer.patch(resource, key, lambda obj: merge_patch(obj, second), _OPTIONS),
            lambda: plane.writer.apply(
                resource, key, copy.deepcopy(second), _OPTIONS, subresource="", force=True
            ),
        )
        for write in writes:
            before = plane.store.rv
            try:
                write()
            except ApiError as refused:
                assert 400 <= refused.code < 500
                assert plane.store.rv == before
        plane.store.close()
