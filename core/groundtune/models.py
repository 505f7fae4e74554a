"""From a model's URI to a local folder in the Hugging Face layout."""

from __future__ import annotations

import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from groundtune.errors import ModelError


def fast_bfloat16() -> bool:
    """Whether this CPU computes in bfloat16; others emulate it, several times slower than float32."""
    import torch

    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def has_gpu() -> bool:
    """Whether PyTorch may find one; asks the kernel, as asking PyTorch would mean to import it."""
    return any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/kfd"))


def resolve_model(uri: str, revision: str, cache: Path, *, field: str) -> Path:
    """Folder of the model that `uri` names; downloads or converts it once into `cache`.

    Args:
        uri: `file:///PATH`, `package://NAME` (an installed Python package that carries it) or `hf://ORG/NAME`.
        revision: revision of a hub model; empty means its default.
        cache: folder for what has to be downloaded or converted; shared safely by processes.
        field: the spec field that holds the URI, for the error's text.

    Raises:
        ModelError: it isn't there, or is not a model.
    """
    parts = urlsplit(uri)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if not (folder / "config.json").is_file():
            raise ModelError(f"{field}: {uri} is not a folder with a config.json where this run can read it")
        return folder
    if parts.scheme == "package":
        return _from_package(parts.netloc, cache, field)
    return _from_hub(parts.netloc + parts.path, revision, cache, field)


def _from_hub(name: str, revision: str, cache: Path, field: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                cache_dir=cache / "hub",
                allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"],
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(f"{field}: hf://{name} can't be fetched: {error}") from error


def _from_package(package: str, cache: Path, field: str) -> Path:
    try:
        files = metadata.files(package) or []
    except metadata.PackageNotFoundError:
        raise ModelError(
            f"{field}: no Python package {package!r} is installed where this run happens"
        ) from None
    ready = [path for path in files if path.name == "config.json"]
    quantized = [path for path in files if path.suffix == ".gguf"]
    if ready:
        shallowest = min(ready, key=lambda path: len(path.parts))
        return Path(str(shallowest.locate())).parent
    if quantized:
        return _converted(package, Path(str(quantized[0].locate())), cache)
    raise ModelError(f"{field}: the Python package {package!r} carries no model (no config.json, no .gguf)")


def _converted(package: str, gguf: Path, cache: Path) -> Path:
    """A bf16 checkpoint made from a GGUF file, which neither PEFT nor vLLM can adapt as it is."""
    target = cache / f"{package}-{metadata.version(package)}-bf16"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            return target
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16)
        config = loaded.config
        if hasattr(config, "quantization_config"):
            del config.quantization_config
        # A fresh model of the same shape: the loaded one remembers that it was quantized and refuses to be saved.
        plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        plain.load_state_dict(loaded.state_dict())
        building = Path(tempfile.mkdtemp(dir=cache, prefix=".building-"))
        try:
            plain.save_pretrained(building, safe_serialization=True)
            AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(building)
            building.replace(target)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return target
