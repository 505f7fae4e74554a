"""The local control plane as client libraries see it: versions, watches, crashes."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import httpx
import kubernetes
import pytest
from kubeapi_server import GROUP, PLURAL, VERSION, LocalServer, eventually, widget
from kubernetes.client import ApiException

_HISTORY = 40
_WIDGETS = f"/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}"
_ALL = (GROUP, VERSION, "default", PLURAL)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    server = LocalServer(tmp_path_factory.mktemp("client"), "--history", str(_HISTORY)).start()
    server.serve_widgets()
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def http(server: LocalServer) -> Iterator[httpx.Client]:
    with server.http() as client:
        yield client


def _create(http: httpx.Client, obj: dict[str, Any]) -> dict[str, Any]:
    response = http.post(_WIDGETS, json=obj)
    assert response.status_code == 201, response.text
    created: dict[str, Any] = response.json()
    return created


def _merge(http: httpx.Client, name: str, patch: dict[str, Any], *, status: bool = False) -> dict[str, Any]:
    response = http.patch(
        f"{_WIDGETS}/{name}{'/status' if status else ''}",
        content=json.dumps(patch),
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert response.status_code == 200, response.text
    patched: dict[str, Any] = response.json()
    return patched


def _exists(http: httpx.Client, name: str) -> bool:
    return http.get(f"{_WIDGETS}/{name}").status_code == 200


def test_a_token_is_needed(server: LocalServer) -> None:
    anonymous = httpx.get(f"{server.url}{_WIDGETS}", verify=False)
    assert anonymous.status_code == 401
    assert anonymous.json()["kind"] == "Status"
    wrong = httpx.get(f"{server.url}{_WIDGETS}", verify=False, headers={"Authorization": "Bearer wrong"})
    assert wrong.status_code == 401
    assert httpx.get(f"{server.url}/livez", verify=False).text == "ok"


def test_the_certificate_is_the_one_in_the_kubeconfig(server: LocalServer) -> None:
    with pytest.raises(httpx.ConnectError, match="certificate"):
        httpx.get(f"{server.url}/livez")
    assert server.objects().list_namespaced_custom_object(*_ALL)["kind"] == "WidgetList"


def test_stale_writes_conflict(server: LocalServer) -> None:
    api = server.objects()
    first = api.create_namespaced_custom_object(*_ALL, widget("stale"))
    api.replace_namespaced_custom_object(*_ALL, "stale", {**first, "spec": {"color": "green"}})
    with pytest.raises(ApiException) as refused:
        api.replace_namespaced_custom_object(*_ALL, "stale", first)
    assert refused.value.status == 409
    assert json.loads(refused.value.body)["reason"] == "Conflict"
    del first["metadata"]["resourceVersion"]
    with pytest.raises(ApiException) as refused:
        api.replace_namespaced_custom_object(*_ALL, "stale", first)
    assert "metadata.resourceVersion" in refused.value.body


def test_generation_counts_changes_of_the_spec_alone(http: httpx.Client) -> None:
    created = _create(http, {**widget("counted"), "status": {"replicas": 9}})
    assert created["metadata"]["generation"] == 1
    assert "status" not in created
    same = _merge(http, "counted", {"spec": {"color": "red"}})
    assert same["metadata"]["resourceVersion"] == created["metadata"]["resourceVersion"]
    labelled = _merge(http, "counted", {"metadata": {"labels": {"a": "b"}}})
    assert labelled["metadata"]["generation"] == 1
    reported = _merge(http, "counted", {"status": {"replicas": 2}, "spec": {"replicas": 5}}, status=True)
    assert reported["metadata"]["generation"] == 1
    assert (reported["spec"]["replicas"], reported["status"]["replicas"]) == (1, 2)
    changed = _merge(http, "counted", {"spec": {"replicas": 5}, "status": {"replicas": 7}})
    assert changed["metadata"]["generation"] == 2
    assert (changed["spec"]["replicas"], changed["status"]["replicas"]) == (5, 2)


def test_what_the_server_sets_can_not_be_changed(http: httpx.Client) -> None:
    created = _create(http, widget("fixed"))
    patched = _merge(
        http, "fixed", {"metadata": {"creationTimestamp": "2001-01-01T00:00:00Z", "generation": 7}}
    )
    assert patched["metadata"]["creationTimestamp"] == created["metadata"]["creationTimestamp"]
    assert patched["metadata"]["generation"] == 1
    wrong_uid = http.patch(
        f"{_WIDGETS}/fixed",
        content='{"metadata":{"uid":"other"}}',
        headers={"Content-Type": "application/merge-patch+json"},
    )
    assert wrong_uid.status_code == 409


def test_dependents_go_with_their_owner(http: httpx.Client) -> None:
    def owned(name: str, *owners: dict[str, Any]) -> None:
        references = [
            {
                "apiVersion": o["apiVersion"],
                "kind": o["kind"],
                "name": o["metadata"]["name"],
                "uid": o["metadata"]["uid"],
            }
            for o in owners
        ]
        obj = widget(name)
        obj["metadata"]["ownerReferences"] = references
        _create(http, obj)

    one, two = _create(http, widget("owner-1")), _create(http, widget("owner-2"))
    owned("of-one", one)
    owned("of-both", one, two)
    assert http.delete(f"{_WIDGETS}/owner-1").json()["status"] == "Success"
    eventually(lambda: not _exists(http, "of-one"), "the dependent is deleted")
    left = http.get(f"{_WIDGETS}/of-both").json()["metadata"]["ownerReferences"]
    assert [reference["name"] for reference in left] == ["owner-2"]
    http.delete(f"{_WIDGETS}/owner-2", params={"propagationPolicy": "Orphan"})
    eventually(lambda: not _exists(http, "owner-2"), "the owner is deleted")
    assert "ownerReferences" not in http.get(f"{_WIDGETS}/of-both").json()["metadata"]
    owned("of-a-ghost", one)
    eventually(lambda: not _exists(http, "of-a-ghost"), "a dependent of nothing is deleted")


def test_pages_cover_the_list_once(http: httpx.Client) -> None:
    for number in range(5):
        obj = widget(f"page-{number}")
        obj["metadata"]["labels"] = {"page": "yes"}
        _create(http, obj)
    seen: list[str] = []
    token, pages = "", 0
    while pages == 0 or token:
        query = {"labelSelector": "page=yes", "limit": "2", "continue": token}
        answer = http.get(_WIDGETS, params=query).json()
        seen += [item["metadata"]["name"] for item in answer["items"]]
        token, pages = answer["metadata"].get("continue", ""), pages + 1
    assert seen == [f"page-{number}" for number in range(5)]
    assert pages == 3


def _events(http: httpx.Client, **query: str) -> list[tuple[str, str]]:
    """What a watch of one second tells: type and name (or message, or annotations)."""
    told = []
    answer = http.get(_WIDGETS, params={"watch": "true", "timeoutSeconds": "1", **query})
    for line in answer.text.splitlines():
        event = json.loads(line)
        metadata = event["object"]["metadata"]
        told.append((event["type"], metadata.get("name") or event["object"].get("message") or str(metadata)))
    return told


def test_watches_resume_where_they_ended(http: httpx.Client) -> None:
    start = _create(http, widget("told"))["metadata"]["resourceVersion"]
    _merge(http, "told", {"metadata": {"labels": {"shown": "yes"}}})
    _merge(http, "told", {"metadata": {"labels": {"shown": "no"}}})
    http.delete(f"{_WIDGETS}/told")
    every = [("MODIFIED", "told"), ("MODIFIED", "told"), ("DELETED", "told")]
    assert _events(http, resourceVersion=start) == every
    selected = _events(http, resourceVersion=start, labelSelector="shown=yes")
    assert selected == [("ADDED", "told"), ("DELETED", "told")]


def test_watches_can_start_with_what_is_there(http: httpx.Client) -> None:
    _create(http, widget("present"))
    query = {"fieldSelector": "metadata.name=present", "allowWatchBookmarks": "true"}
    assert _events(http, **query)[0] == ("ADDED", "present")
    initial = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    events = _events(http, **query, **initial)
    assert events[0] == ("ADDED", "present")
    assert events[1][0] == "BOOKMARK"
    assert "initial-events-end" in events[1][1]


def test_forgotten_history_is_gone(http: httpx.Client) -> None:
    start = _create(http, widget("busy"))["metadata"]["resourceVersion"]
    for number in range(2 * _HISTORY + 1):
        _merge(http, "busy", {"metadata": {"annotations": {"n": str(number)}}})
    (event,) = _events(http, resourceVersion=start)
    assert event[0] == "ERROR"
    assert "too old resource version" in event[1]
    recent = http.get(_WIDGETS).json()["metadata"]["resourceVersion"]
    assert _events(http, resourceVersion=recent) == []
    token = http.get(_WIDGETS, params={"resourceVersion": "99999999"})
    assert token.status_code == 504
    assert token.json()["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_a_killed_server_loses_nothing(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = LocalServer(tmp_path_factory.mktemp("killed")).start()
    server.serve_widgets()
    with server.http() as http:
        held = widget("held")
        held["metadata"]["finalizers"] = ["example.dev/hold"]
        _create(http, held)
        owner = _create(http, widget("owner"))
        http.delete(f"{_WIDGETS}/held")
        version = owner["metadata"]["resourceVersion"]
        written = [_create(http, widget(f"w{number}")) for number in range(20)]
    server.kill()
    server.start()
    try:
        with server.http() as http:
            for obj in written:
                assert http.get(f"{_WIDGETS}/{obj['metadata']['name']}").json() == obj
            assert http.get(f"{_WIDGETS}/held").json()["metadata"]["deletionTimestamp"]
            resumed = [name for type_, name in _events(http, resourceVersion=version) if type_ == "ADDED"]
            assert resumed == [f"w{number}" for number in range(20)]
            fresh = _create(http, widget("fresh"))["metadata"]["resourceVersion"]
            assert int(fresh) > int(written[-1]["metadata"]["resourceVersion"])
            assert http.post(_WIDGETS, json=widget("bad", color="blue")).status_code == 422
        second = subprocess.run(server.command(), capture_output=True, text=True)
        assert second.returncode == 1
        assert "in use by another process" in second.stderr
    finally:
        assert server.stop() == 0


def test_the_python_client_watches(server: LocalServer) -> None:
    api = server.objects()
    api.create_namespaced_custom_object(*_ALL, widget("streamed"))
    watch = kubernetes.watch.Watch()
    names = []
    for event in watch.stream(api.list_namespaced_custom_object, *_ALL, timeout_seconds=5):
        names.append(event["object"]["metadata"]["name"])
        if "streamed" in names:
            watch.stop()
    assert "streamed" in names


def test_discovery_lists_kinds_in_both_forms(http: httpx.Client) -> None:
    plain = http.get(f"/apis/{GROUP}/{VERSION}").json()["resources"]
    by_name = {entry["name"]: entry for entry in plain}
    assert by_name["widgets"]["shortNames"] == ["wd"]
    assert by_name["widgets/scale"]["kind"] == "Scale"
    accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json"
    answer = http.get("/apis", headers={"Accept": accept})
    assert "as=APIGroupDiscoveryList" in answer.headers["content-type"]
    groups = {item["metadata"]["name"]: item["versions"][0]["resources"] for item in answer.json()["items"]}
    assert groups[GROUP][0]["responseKind"]["kind"] == "Widget"
    assert [entry["subresource"] for entry in groups[GROUP][0]["subresources"]] == ["status", "scale"]
