"""Patches, field ownership, selectors, paths, tables and storage of the local control plane."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundtune_local.kubeapi import protobuf
from groundtune_local.kubeapi.errors import ApiError
from groundtune_local.kubeapi.fields import describe, from_fields_v1, leaves, merge, to_fields_v1, without
from groundtune_local.kubeapi.jsonpath import JsonPathError, find
from groundtune_local.kubeapi.patch import json_patch, merge_patch, strategic_merge_patch
from groundtune_local.kubeapi.selectors import field_test, label_test
from groundtune_local.kubeapi.store import HistoryGone, Key, Store, StoreLocked
from groundtune_local.kubeapi.table import age

_SCALARS = st.booleans() | st.integers(-9, 9) | st.text("ab", max_size=2)
_JSON = st.recursive(
    _SCALARS | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=10,
)
_OBJECTS = st.dictionaries(st.sampled_from("abc"), _JSON, max_size=3)

_SCHEMA: dict[str, Any] = {
    "properties": {
        "parts": {
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object"},
        },
        "tags": {"x-kubernetes-list-type": "set"},
        "whole": {"x-kubernetes-map-type": "atomic"},
    }
}


def test_merge_patch_follows_its_standard() -> None:
    target = {"a": {"b": 1, "c": 2}, "d": [1]}
    assert merge_patch(target, {"a": {"b": None, "e": {"f": None}}, "d": [2]}) == {
        "a": {"c": 2, "e": {}},
        "d": [2],
    }
    assert target == {"a": {"b": 1, "c": 2}, "d": [1]}


def test_json_patch_refuses_what_does_not_fit() -> None:
    assert json_patch({"a": [1]}, [{"op": "add", "path": "/a/-", "value": 2}]) == {"a": [1, 2]}
    for operations in (
        [{"op": "test", "path": "/a", "value": 1}],
        [{"op": "remove", "path": "/b"}],
        [{"op": "?"}],
    ):
        with pytest.raises(ApiError) as refused:
            json_patch({"a": 2}, operations)
        assert refused.value.code == 422
    with pytest.raises(ApiError, match="list of operations"):
        json_patch({}, {})


def test_strategic_merge_patch_merges_keyed_lists() -> None:
    target = {"ports": [{"port": 1, "name": "a"}, {"port": 2}], "metadata": {"finalizers": ["x", "y"]}}
    patch = {
        "ports": [{"port": 1, "name": "b"}, {"port": 2, "$patch": "delete"}, {"port": 3}],
        "metadata": {"$deleteFromPrimitiveList/finalizers": ["x"], "finalizers": ["z"]},
    }
    assert strategic_merge_patch(target, patch) == {
        "ports": [{"port": 1, "name": "b"}, {"port": 3}],
        "metadata": {"finalizers": ["y", "z"]},
    }


def test_fields_know_keyed_lists_sets_and_atomic_maps() -> None:
    value = {"parts": [{"name": "a", "n": 1}], "tags": ["t"], "whole": {"x": 1}, "plain": {"y": []}}
    fields = leaves(value, _SCHEMA)
    assert [describe(field) for field in sorted(fields)] == [
        '.parts[name="a"]',
        '.parts[name="a"].n',
        '.parts[name="a"].name',
        ".plain.y",
        '.tags[="t"]',
        ".whole",
    ]
    assert from_fields_v1(to_fields_v1(fields)) == set(fields)


def test_removed_items_leave_the_others() -> None:
    value = {"parts": [{"name": "a", "n": 1}, {"name": "b", "n": 2}], "tags": ["t", "u"]}
    mine = leaves({"parts": [{"name": "a", "n": 1}], "tags": ["u"]}, _SCHEMA)
    assert without(value, mine, _SCHEMA) == {"parts": [{"name": "b", "n": 2}], "tags": ["t"]}


@given(_OBJECTS, _OBJECTS)
def test_what_is_merged_in_is_there(live: dict[str, Any], applied: dict[str, Any]) -> None:
    merged = leaves(merge(live, applied, {}), {})
    assert all(merged.get(field) == value for field, value in leaves(applied, {}).items() if value != {})


@given(_OBJECTS)
def test_nothing_is_left_without_all_fields(value: dict[str, Any]) -> None:
    assert without(value, leaves(value, {}), {}) == {}


@given(_OBJECTS)
def test_fields_survive_their_written_form(value: dict[str, Any]) -> None:
    fields = set(leaves(value, {}))
    assert from_fields_v1(to_fields_v1(fields)) == fields


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("a=1", True),
        ("a==1,b", True),
        ("a!=1", False),
        ("!c", True),
        ("!a", False),
        ("a in (1, 2),b notin (x)", True),
        ("c notin (x)", True),
        ("c in (x)", False),
        ("", True),
    ],
)
def test_label_selectors(selector: str, matches: bool) -> None:
    assert label_test(selector)({"metadata": {"labels": {"a": "1", "b": "y"}}}) is matches


def test_selectors_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ApiError, match="unable to parse requirement"):
        label_test("a in 1")
    with pytest.raises(ApiError, match=r"field label not supported: spec\.x"):
        field_test("spec.x=1", "widgets")
    event = {"metadata": {"name": "e"}, "involvedObject": {"uid": "u"}, "source": {"component": "c"}}
    assert field_test("involvedObject.uid=u,source=c,metadata.name!=x", "events")(event)
    assert not field_test("involvedObject.uid=v", "events")(event)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (".a.b", [1]),
        ("{.a.b}", [1]),
        (".list[1].n", [2]),
        (".list[-1].n", [3]),
        (".list[*].n", [1, 2, 3]),
        ('.list[?(@.t=="y")].n', [2]),
        (".list[?(@.n>1)].n", [2, 3]),
        (".list[?(@.t)].n", [1, 2]),
        (r".dotted\.key", ["d"]),
        ("['dotted.key']", ["d"]),
        (".missing.b", []),
        (".list[9].n", []),
    ],
)
def test_json_paths(path: str, found: list[Any]) -> None:
    value = {
        "a": {"b": 1},
        "list": [{"n": 1, "t": "x"}, {"n": 2, "t": "y"}, {"n": 3}],
        "dotted.key": "d",
    }
    assert find(path, value) == found


def test_json_paths_that_make_no_sense_are_refused() -> None:
    for path in (".a[", ".a[?(@.b==c d)]", "a b"):
        with pytest.raises(JsonPathError):
            find(path, {})


@pytest.mark.parametrize(
    ("ago", "text"),
    [
        ({"seconds": 90}, "90s"),
        ({"minutes": 5, "seconds": 30}, "5m30s"),
        ({"minutes": 45}, "45m"),
        ({"hours": 4, "minutes": 10}, "4h10m"),
        ({"hours": 30}, "30h"),
        ({"days": 3, "hours": 2}, "3d2h"),
        ({"days": 100}, "100d"),
        ({"days": 800}, "2y70d"),
        ({"days": -1}, "<invalid>"),
    ],
)
def test_ages_read_as_in_kubectl(ago: dict[str, int], text: str) -> None:
    # Half a second more, so that the test's own time does not change the last digit.
    then = datetime.datetime.now(datetime.UTC) - datetime.timedelta(**ago, milliseconds=500)
    assert age(then.isoformat()) == text


def test_protobuf_bodies_of_kubectl_are_read() -> None:
    def field(number: int, content: bytes) -> bytes:
        return bytes([number << 3 | 2, len(content)]) + content

    metadata = field(1, b"settings") + field(3, b"default") + field(11, field(1, b"l") + field(2, b"v"))
    raw = field(1, metadata) + field(2, field(1, b"key") + field(2, b"value")) + bytes([4 << 3, 1])
    envelope = field(1, field(1, b"v1") + field(2, b"ConfigMap")) + field(2, raw)
    assert protobuf.decode(b"k8s\x00" + envelope) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "settings", "namespace": "default", "labels": {"l": "v"}},
        "data": {"key": "value"},
        "immutable": True,
    }
    with pytest.raises(ApiError, match="can't be read"):
        protobuf.decode(b"k8s\x00" + envelope[:-3])
    with pytest.raises(ApiError, match="does not read Pod"):
        protobuf.decode(b"k8s\x00" + field(1, field(1, b"v1") + field(2, b"Pod")))


def _stored(name: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "uid": f"uid-{name}"}}


def test_the_store_remembers_across_openings(tmp_path: Path) -> None:
    key = Key("widgets", "default", "a")
    store = Store(tmp_path / "db", history=10)
    store.put(key, _stored("a"))
    store.put(key, {**_stored("a"), "spec": 1})
    store.put(Key("widgets", "other", "b"), _stored("b"))
    with pytest.raises(StoreLocked):
        Store(tmp_path / "db", history=10)
    store.close()
    store = Store(tmp_path / "db", history=10)
    assert (store.get(key) or {})["spec"] == 1
    assert [k.name for k, _ in store.entries("widgets", "other")] == ["b"]
    assert [change.type for change in store.changes_since("widgets", 0)] == ["ADDED", "MODIFIED", "ADDED"]
    removed = store.remove(key, _stored("a"))
    assert removed["metadata"]["resourceVersion"] == "4"
    assert store.key_of_uid("uid-a") is None
    store.close()


def test_the_store_forgets_old_changes_but_not_that_it_did(tmp_path: Path) -> None:
    key = Key("widgets", "default", "a")
    store = Store(tmp_path / "db", history=3)
    for _ in range(20):
        store.put(key, _stored("a"))
    for opened in (store, None):
        if opened is None:
            store.close()
            store = Store(tmp_path / "db", history=3)
        assert len(store.changes_since("widgets", 18)) == 2
        assert store.changes_since("gears", 1) == []
        with pytest.raises(HistoryGone):
            store.changes_since("widgets", 2)
    assert store.rv == 20
    store.close()
