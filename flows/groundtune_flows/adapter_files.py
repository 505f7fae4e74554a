"""Where a job's checkpoints and adapters are, under the artifact folder, and how they come there whole."""

from __future__ import annotations

import json
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

from groundtune.api.fine_tune_job import BaseModelRef
from groundtune.names import adapter_name

_PROVENANCE = "provenance.json"
_PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "groundtune")


class AdapterFiles:
    """Of one job: `<artifacts>/<namespace>/<job>/runs/<key>` and `…/adapters/<job>-v<n>`."""

    def __init__(self, artifacts: Path, namespace: str, job: str) -> None:
        self._artifacts = artifacts
        self._job = job
        self._folder = artifacts / namespace / job

    def checkpoints(self, key: str) -> Path:
        """Folder of a training's checkpoints; the same inputs have the same key, whatever run it is."""
        folder = self._folder / "runs" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def trained(self, key: str) -> Path | None:
        """The finished adapter of a training that has not been registered yet."""
        folder = self._folder / "runs" / key / "adapter"
        return folder if folder.is_dir() else None

    def save_trained(self, key: str, model: Any, base: BaseModelRef, provenance: dict[str, Any]) -> Path:
        """Write the adapter, safetensors and JSON alone; it is there wholly or not at all."""
        target = self.checkpoints(key) / "adapter"
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=".adapter-"))
        try:
            if base.uri.startswith("hf://"):
                for config in model.peft_config.values():
                    config.base_model_name_or_path = base.uri.removeprefix("hf://")
                    config.revision = base.revision or None
            model.save_pretrained(building, safe_serialization=True)
            (building / "README.md").unlink(missing_ok=True)
            (building / _PROVENANCE).write_text(json.dumps(provenance, indent=2) + "\n")
            building.chmod(0o755)
            building.replace(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
        return target

    def provenance(self, folder: Path) -> dict[str, Any]:
        """What the adapter was made of."""
        facts: dict[str, Any] = json.loads((folder / _PROVENANCE).read_text())
        return facts

    def path(self, version: int) -> str:
        """Of a registered version, relative to the artifact folder."""
        folder = self._folder / "adapters" / adapter_name(self._job, version)
        return folder.relative_to(self._artifacts).as_posix()

    def publish(self, trained: Path, version: int) -> None:
        """Copy a trained adapter to where its version is served from.

        What is there already is of a run that was killed before it could register it: nobody knows of it.
        """
        target = self._artifacts / self.path(version)
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(dir=target.parent, prefix=".adapter-"))
        try:
            shutil.copytree(trained, building, dirs_exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            building.replace(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def clean(self) -> None:
        """Delete checkpoints and what killed runs left; call it once the newest version is registered."""
        shutil.rmtree(self._folder / "runs", ignore_errors=True)
        for left in (self._folder / "adapters").glob(".adapter-*"):
            shutil.rmtree(left, ignore_errors=True)


def package_versions() -> dict[str, str]:
    """Versions of what a training depends on."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
