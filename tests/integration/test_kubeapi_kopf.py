"""A kopf operator on the local control plane."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from kubeapi_server import GROUP, PLURAL, VERSION, LocalServer, eventually, widget
from kubernetes.client import ApiException

_ALL = (GROUP, VERSION, "default", PLURAL)

_OPERATOR = """
import kopf

@kopf.on.startup()
def configure(settings, **_):
    settings.persistence.finalizer = "example.dev/operator"

@kopf.on.create("example.dev", "v1", "widgets")
@kopf.on.update("example.dev", "v1", "widgets")
def build(spec, patch, body, **_):
    patch.status["replicas"] = spec["replicas"]
    kopf.info(body, reason="Built", message=f"{spec['replicas']} pieces")

@kopf.on.delete("example.dev", "v1", "widgets")
def scrap(body, **_):
    kopf.info(body, reason="Scrapped", message="gone")
"""


def test_an_operator_creates_updates_and_deletes(tmp_path: Path) -> None:
    server = LocalServer(tmp_path).start()
    server.serve_widgets()
    api = server.objects()
    program = tmp_path / "operator.py"
    program.write_text(_OPERATOR)
    command = [sys.executable, "-m", "kopf", "run", str(program), "--all-namespaces", "--standalone"]
    log = tmp_path / "operator.log"
    with log.open("wb") as output:
        operator = subprocess.Popen(command, env=server.environment(), stdout=output, stderr=output)
    try:

        def built(replicas: int) -> dict[str, Any] | None:
            assert operator.poll() is None, log.read_text()
            obj: dict[str, Any] = api.get_namespaced_custom_object(*_ALL, "made")
            return obj if obj.get("status", {}).get("replicas") == replicas else None

        api.create_namespaced_custom_object(*_ALL, widget("made"))
        first = eventually(lambda: built(1), "the operator handles the creation")
        assert first["metadata"]["finalizers"] == ["example.dev/operator"]
        server.kill()
        server.start()
        api.patch_namespaced_custom_object(*_ALL, "made", {"spec": {"replicas": 3}})
        eventually(lambda: built(3), "the operator handles the update after the server came back")
        api.delete_namespaced_custom_object(*_ALL, "made")

        def gone() -> bool:
            try:
                api.get_namespaced_custom_object(*_ALL, "made")
            except ApiException as exc:
                return bool(exc.status == 404)
            return False

        eventually(gone, "the operator lets the object go")
        eventually(lambda: "Scrapped" in server.kubectl("get", "events"), "the events are written")
        assert "3 pieces" in server.kubectl("get", "events")
    finally:
        operator.terminate()
        operator.wait(timeout=20)
        server.stop()
    assert "Traceback" not in server.log.read_text()
