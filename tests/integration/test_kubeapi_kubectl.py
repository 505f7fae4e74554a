"""The local control plane as kubectl sees it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from kubeapi_server import LocalServer, eventually, find_kubectl, widget


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    server = LocalServer(tmp_path_factory.mktemp("kubectl")).start()
    server.serve_widgets()
    yield server
    assert server.stop() == 0
    assert "Traceback" not in server.log.read_text()


def _apply(server: LocalServer, obj: dict[str, object], *options: str, fails: bool = False) -> str:
    return server.kubectl("apply", "-f", "-", *options, stdin=json.dumps(obj), fails=fails)


def _read(server: LocalServer, name: str) -> dict[str, object]:
    found: dict[str, object] = json.loads(server.kubectl("get", "widgets", name, "-o", "json"))
    return found


def test_apply_creates_changes_and_leaves_alone(server: LocalServer) -> None:
    assert "created" in _apply(server, widget("applied"))
    assert "unchanged" in _apply(server, widget("applied"))
    assert "configured" in _apply(server, widget("applied", replicas=2, tags=["a"]))
    assert "configured" in _apply(server, widget("applied"))
    spec = _read(server, "applied")["spec"]
    assert spec == {"color": "red", "replicas": 1, "nested": {"depth": 3}}


def test_get_prints_the_columns_of_the_definition(server: LocalServer) -> None:
    _apply(server, widget("printed", replicas=4))
    condition = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
    server.kubectl("patch", "wd", "printed", "--subresource=status", "--type=merge", "-p", condition)
    header, row = server.kubectl("get", "wd", "printed").splitlines()
    assert header.split() == ["NAME", "READY", "SIZE", "AGE"]
    assert row.split()[:3] == ["printed", "True", "4"]
    header, row = server.kubectl("get", "toys", "printed", "-o", "wide").splitlines()
    assert header.split() == ["NAME", "READY", "SIZE", "COLOR", "AGE"]
    assert row.split()[3] == "red"
    assert server.kubectl("get", "wd", "-A").splitlines()[0].split()[0] == "NAMESPACE"


def test_get_watch_shows_changes_as_they_come(server: LocalServer) -> None:
    _apply(server, widget("watched"))
    command = [find_kubectl(), "get", "wd", "watched", "--watch"]
    with subprocess.Popen(command, env=server.environment(), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout
        assert watching.stdout.readline().split()[0] == "NAME"
        assert watching.stdout.readline().split()[:2] == ["watched", "1"]
        _apply(server, widget("watched", replicas=7))
        assert watching.stdout.readline().split()[:2] == ["watched", "7"]
        watching.terminate()


def test_wait_ends_when_the_condition_holds(server: LocalServer) -> None:
    _apply(server, widget("waited"))
    command = [find_kubectl(), "wait", "wd/waited", "--for=condition=Ready", "--timeout=20s"]
    with subprocess.Popen(command, env=server.environment(), stdout=subprocess.PIPE, text=True) as waiting:
        condition = '{"status":{"conditions":[{"type":"Ready","status":"True"}]}}'
        server.kubectl("patch", "wd", "waited", "--subresource=status", "--type=merge", "-p", condition)
        output, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 0, output
    assert "condition met" in output
    assert "timed out" in server.kubectl(
        "wait", "wd/waited", "--for=condition=Other", "--timeout=1s", fails=True
    )


def test_delete_removes_and_waits_for_finalizers(server: LocalServer) -> None:
    held = widget("held")
    held["metadata"]["finalizers"] = ["example.dev/hold"]
    _apply(server, held)
    server.kubectl("delete", "wd", "held", "--wait=false")
    metadata = _read(server, "held")["metadata"]
    assert isinstance(metadata, dict) and metadata["deletionTimestamp"]
    assert "already exists" in server.kubectl(
        "create", "-f", "-", stdin=json.dumps(widget("held")), fails=True
    )
    server.kubectl(
        "patch", "wd", "held", "--type=json", "-p", '[{"op":"remove","path":"/metadata/finalizers"}]'
    )
    assert "NotFound" in server.kubectl("get", "wd", "held", fails=True)


def test_unknown_fields_are_refused_warned_of_or_dropped(server: LocalServer) -> None:
    odd = widget("odd", colour="red")
    assert 'unknown field "spec.colour"' in _apply(server, odd, fails=True)
    assert 'Warning: unknown field "spec.colour"' in _apply(server, odd, "--validate=warn")
    assert "Warning" not in _apply(server, odd, "--validate=ignore")
    assert "colour" not in json.dumps(_read(server, "odd")["spec"])
    free = widget("odd", free={"anything": {"goes": 1}})
    _apply(server, free)
    spec = _read(server, "odd")["spec"]
    assert isinstance(spec, dict) and spec["free"] == {"anything": {"goes": 1}}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"color": "blue"}, 'spec.color: Unsupported value: "blue": supported values: "red", "green"'),
        (
            {"replicas": 11},
            "spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10",
        ),
        ({"replicas": "x"}, 'spec.replicas in body must be of type integer: "string"'),
        ({"schedule": "x"}, r"spec.schedule in body should match '^\S+( \S+){4}$'"),
        ({"tags": ["a", "a"]}, 'spec.tags[1]: Duplicate value: "a"'),
        ({"parts": [{"name": "a"}, {"name": "a"}]}, "spec.parts[1]: Duplicate value"),
        ({"parts": [{"count": 1}]}, "spec.parts[0].name: Required value"),
        ({"every": "often"}, 'spec.every in body must be of type duration: "often"'),
        ({"every": "5s"}, "too often"),
        ({"max": 2, "replicas": 3}, "at most 2 replicas"),
        ({"port": 1.5}, "spec.port in body must be of type integer,string"),
    ],
)
def test_invalid_objects_are_refused_with_the_field(
    server: LocalServer, spec: dict[str, object], message: str
) -> None:
    output = _apply(server, widget("invalid", **spec), fails=True)
    assert message in output
    assert "invalid" in output
    assert "NotFound" in server.kubectl("get", "wd", "invalid", fails=True)


def test_transition_rules_look_at_the_old_value(server: LocalServer) -> None:
    _apply(server, widget("numbered", serial="1"))
    assert 'spec.serial: Invalid value: "2": can\'t be changed' in _apply(
        server, widget("numbered", serial="2"), fails=True
    )
    _apply(server, widget("numbered", serial="1", replicas=2))


def test_explain_reads_the_schema(server: LocalServer) -> None:
    output = server.kubectl("explain", "widgets.spec")
    assert "What is wanted." in output
    assert "The paint it gets." in output
    assert "-required-" in output
    assert "enum: red, green" in output


def test_describe_lists_events(server: LocalServer) -> None:
    _apply(server, widget("described"))
    metadata = _read(server, "described")["metadata"]
    assert isinstance(metadata, dict)
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": "e-", "namespace": "default"},
        "type": "Warning",
        "reason": "Rusty",
        "message": "it needs oil",
        "involvedObject": {
            "kind": "Widget",
            "apiVersion": "example.dev/v1",
            "name": "described",
            "namespace": "default",
            "uid": metadata["uid"],
        },
        "lastTimestamp": metadata["creationTimestamp"],
    }
    server.kubectl("create", "-f", "-", stdin=json.dumps(event))
    output = server.kubectl("describe", "wd", "described")
    assert "it needs oil" in output
    assert "widget/described" in server.kubectl("get", "events", "--field-selector", "reason=Rusty")
    assert "No resources" in server.kubectl("get", "events", "--field-selector", "reason=Shiny")


def test_server_side_apply_guards_the_fields_of_others(server: LocalServer) -> None:
    apply = ("--server-side", "--field-manager=one")
    _apply(server, widget("shared", replicas=2, tags=["a"], parts=[{"name": "p", "count": 1}]), *apply)
    other = ("--server-side", "--field-manager=two")
    conflict = _apply(server, widget("shared", replicas=3), *other, fails=True)
    assert 'conflict with "one" using example.dev/v1: .spec.replicas' in conflict
    _apply(server, widget("shared", replicas=3, parts=[{"name": "q"}]), *other, "--force-conflicts")
    _apply(server, widget("shared"), *apply)
    spec = _read(server, "shared")["spec"]
    assert spec == {
        "color": "red",
        "replicas": 3,
        "nested": {"depth": 3},
        "parts": [{"name": "q"}],
    }


def test_client_side_apply_moves_over_to_server_side(server: LocalServer) -> None:
    _apply(server, widget("moved", replicas=2))
    _apply(server, widget("moved", replicas=3), "--server-side")
    _apply(server, widget("moved"), "--server-side")
    spec = _read(server, "moved")["spec"]
    assert isinstance(spec, dict) and spec["replicas"] == 1


def test_dry_run_and_diff_change_nothing(server: LocalServer) -> None:
    assert "dry run" in _apply(server, widget("dry"), "--dry-run=server")
    assert "NotFound" in server.kubectl("get", "wd", "dry", fails=True)
    _apply(server, widget("dry"))
    before = _read(server, "dry")
    difference = server.kubectl("diff", "-f", "-", stdin=json.dumps(widget("dry", replicas=5)), fails=True)
    assert "+  replicas: 5" in difference
    assert _read(server, "dry") == before


def test_scale_label_annotate_and_replace(server: LocalServer) -> None:
    _apply(server, widget("scaled"))
    server.kubectl("scale", "wd/scaled", "--replicas=6")
    server.kubectl("label", "wd", "scaled", "size=big")
    server.kubectl("annotate", "wd", "scaled", "note=x")
    assert "scaled" in server.kubectl("get", "wd", "-l", "size in (big,huge)", "-o", "name")
    obj = _read(server, "scaled")
    assert obj["spec"] == {"color": "red", "replicas": 6, "nested": {"depth": 3}}
    server.kubectl("label", "wd", "scaled", "size-")
    stale = server.kubectl("replace", "-f", "-", stdin=json.dumps(obj), fails=True)
    assert "the object has been modified" in stale


def test_strategic_patches_are_for_built_in_kinds(server: LocalServer) -> None:
    _apply(server, widget("patched"))
    refusal = server.kubectl("patch", "wd", "patched", "--type=strategic", "-p", "{}", fails=True)
    assert "strategic-merge-patch+json is not supported" in refusal
    server.kubectl("create", "configmap", "settings", "--from-literal=a=1", "--from-literal=b=2")
    server.kubectl("patch", "configmap", "settings", "-p", '{"data":{"b":null,"c":"3"}}')
    assert json.loads(server.kubectl("get", "cm", "settings", "-o", "jsonpath={.data}")) == {
        "a": "1",
        "c": "3",
    }


def test_namespaces_take_their_contents_with_them(server: LocalServer) -> None:
    server.kubectl("create", "namespace", "short-lived")
    server.kubectl("create", "secret", "generic", "s", "--from-literal=k=v", "-n", "short-lived")
    _apply(server, widget("inside"), "-n", "short-lived")
    assert "data" in server.kubectl("get", "secret", "s", "-n", "short-lived", "-o", "json")
    server.kubectl("delete", "namespace", "short-lived")
    assert "inside" not in server.kubectl("get", "wd", "-A")
    assert 'namespaces "short-lived" not found' in _apply(
        server, widget("w"), "-n", "short-lived", fails=True
    )


def test_definitions_come_and_go(server: LocalServer) -> None:
    definition = json.loads(server.kubectl("get", "crd", "widgets.example.dev", "-o", "json"))
    names = {"plural": "gears", "kind": "Gear", "singular": "gear", "listKind": "GearList"}
    gears = {
        "apiVersion": definition["apiVersion"],
        "kind": definition["kind"],
        "metadata": {"name": "gears.example.dev"},
        "spec": {**definition["spec"], "names": names},
    }
    _apply(server, gears)
    server.kubectl("wait", "--for=condition=Established", "crd/gears.example.dev", "--timeout=10s")
    _apply(server, {**widget("g"), "kind": "Gear"})
    server.kubectl("delete", "crd", "gears.example.dev")
    eventually(lambda: "gears" not in server.kubectl("api-resources"), "the kind is gone")
    gears["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"][
        "x-kubernetes-validations"
    ] = [{"rule": "self.color =="}]
    assert "compilation failed" in _apply(server, gears, fails=True)


def test_what_is_not_served_is_said_so(server: LocalServer) -> None:
    assert "doesn't have a resource type" in server.kubectl("get", "pods", fails=True)
    refusal = server.kubectl("get", "--raw", "/api/v1/namespaces/default/pods/x/exec", fails=True)
    assert "the local control plane does not serve" in refusal
    assert server.kubectl("auth", "can-i", "delete", "widgets").strip() == "yes"
