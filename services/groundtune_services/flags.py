"""From a declared engine to vLLM's flags and environment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from groundtune.models import fast_bfloat16
from groundtune.serving import EngineArgs

#: The adapter that answers, and the one that is about to.
_ADAPTERS_SIDE_BY_SIDE = 2

#: How models write a tool call, by a mark in their chat template; more specific marks first.
_TOOL_MARKS = (
    ("[TOOL_CALLS]", "mistral"),
    ("<|python_tag|>", "llama3_json"),
    ("<tool_call>", "hermes"),
)


def environment(args: EngineArgs) -> dict[str, str]:
    """Variables that have to be set before vLLM is imported.

    Those that are set already stand, other than the number of threads, which Ray sets to its own idea.
    """
    found = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    }
    if not args.resources.gpus:
        found |= {
            # Threads pinned to cores would fight with whatever else runs on a small machine.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            # One process for the engine and its worker: starts sooner, and needs less memory.
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        }
    return found


def threads(args: EngineArgs) -> int:
    """Threads of a model on a CPU: what the replica asks Ray for."""
    return max(1, int(args.resources.cpu))


def flags(args: EngineArgs, folder: Path) -> dict[str, Any]:
    """Keyword arguments of vLLM's `AsyncEngineArgs`."""
    engine, gpus = args.engine, args.resources.gpus
    found: dict[str, Any] = {
        "model": str(folder),
        "served_model_name": [args.served_name],
        "max_model_len": engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "dtype": engine.dtype,
        "enable_prefix_caching": True,
        "enable_lora": True,
        "max_loras": _ADAPTERS_SIDE_BY_SIDE,
        "max_lora_rank": engine.max_lora_rank,
        "enable_log_requests": False,
    }
    if gpus:
        return found | {
            "tensor_parallel_size": max(1, int(gpus)),
            "gpu_memory_utilization": 0.9 * min(1.0, gpus),
        }
    return found | {
        "dtype": _cpu_dtype() if engine.dtype == "auto" else engine.dtype,
        "enforce_eager": True,
        "kv_cache_memory_bytes": int(engine.kv_cache_gi_b * 2**30),
        "distributed_executor_backend": "uni",
    }


def _cpu_dtype() -> str:
    return "bfloat16" if fast_bfloat16() else "float32"


def tool_parser(chat_template: str | None) -> str | None:
    """The parser for the tool calls that a model was trained to write; None if its template shows none."""
    template = chat_template or ""
    return next((parser for mark, parser in _TOOL_MARKS if mark in template), None)


def refusal(folder: Path, shown: str, max_rank: int) -> str:
    """Why an adapter's folder can't be loaded; empty if nothing speaks against it.

    Args:
        shown: how to call the folder in the message.
    """
    try:
        config = json.loads((folder / "adapter_config.json").read_text())
        rank = int(config["r"])
    except FileNotFoundError:
        return f"{shown} holds no adapter_config.json"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{shown}/adapter_config.json is not a LoRA configuration: {error!r}"
    if rank > max_rank:
        return f"rank {rank} is above spec.engine.maxLoraRank: {max_rank}"
    if not (folder / "adapter_model.safetensors").is_file():
        return f"{shown} holds no adapter_model.safetensors"
    return ""
