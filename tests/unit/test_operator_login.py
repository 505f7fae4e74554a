"""Credentials, asked for by kopf and by the operator's own calls at once."""

from __future__ import annotations

import base64
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

import kopf
import pytest
import yaml
from kubernetes.config import kube_config

from groundtune_operator.clients import kube


def _kubeconfig(path: Path) -> None:
    authority = base64.b64encode(b"-----BEGIN CERTIFICATE-----").decode()
    path.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
                "clusters": [
                    {
                        "name": "here",
                        "cluster": {"server": "https://127.0.0.1:1", "certificate-authority-data": authority},
                    }
                ],
                "users": [{"name": "me", "user": {"token": "unused"}}],
            }
        ),
        encoding="utf-8",
    )


def test_nobody_gets_a_certificate_file_that_is_not_written_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kubeconfig(tmp_path / "kubeconfig")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(kube_config, "_temp_files", {})

    def slowly(name: str, mode: str = "r", **options: Any) -> IO[Any]:
        if "w" in mode:
            time.sleep(0.2)
        return Path(name).open(mode, **options)

    monkeypatch.setattr(kube_config, "open", slowly, raising=False)

    def size(_: int) -> int:
        found = kube.login(logger=logging.getLogger(__name__), settings=kopf.OperatorSettings())
        assert found is not None and found.ca_path is not None
        return Path(str(found.ca_path)).stat().st_size

    with ThreadPoolExecutor(4) as pool:
        assert min(pool.map(size, range(4))) > 0
