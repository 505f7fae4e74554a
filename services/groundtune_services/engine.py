"""The vLLM engine of a replica, with its OpenAI serving parts. Import it only after `flags.environment` is set."""

from __future__ import annotations

import asyncio
import logging
import math
from contextvars import ContextVar
from functools import lru_cache
from itertools import count
from pathlib import Path

from vllm import SamplingParams
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.openai.chat_completion.serving import OpenAIServingChat
from vllm.entrypoints.openai.completion.serving import OpenAIServingCompletion
from vllm.entrypoints.openai.models.protocol import BaseModelPath
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.inputs.engine import tokens_input
from vllm.lora.request import LoRARequest
from vllm.renderers.online_renderer import OnlineRenderer
from vllm.v1.engine.async_llm import AsyncLLM

from groundtune.serving import EngineArgs
from groundtune_services.adapters import AdapterError
from groundtune_services.flags import flags, refusal, tool_parser

_log = logging.getLogger(__name__)

_PROBE_SECONDS = 120.0

#: Name of the base model inside the engine; no adapter version can have it.
BASE = ":base"

#: The `model` that the request in hand asked for, which its answer has to carry.
requested_model: ContextVar[str] = ContextVar("requested_model", default="")


class _Models(OpenAIServingModels):  # type: ignore[misc]  # vLLM is not followed by the type checker
    """vLLM's list of models, answering under the name that was asked for."""

    def model_name(self, lora_request: LoRARequest | None = None) -> str:
        asked: str = requested_model.get() or super().model_name(lora_request)
        return asked


class Engine:
    """Base model and adapter versions by name; the base model is `BASE`."""

    def __init__(self, args: EngineArgs, folder: Path) -> None:
        """Start the engine; takes tens of seconds.

        Raises:
            ValueError: vLLM refuses the model or the flags.
        """
        self._max_rank = args.engine.max_lora_rank
        self._ids = count(1)
        self._probes = count(1)
        self.max_model_len = args.engine.max_model_len
        self.client = AsyncLLM.from_engine_args(AsyncEngineArgs(**flags(args, folder)))
        self._models = _Models(self.client, [BaseModelPath(name=BASE, model_path=str(folder))])
        tokenizer = self.client.renderer.get_tokenizer()
        self._tokenizer = tokenizer
        parser = tool_parser(getattr(tokenizer, "chat_template", None))
        renderer = OnlineRenderer(
            self.client.model_config,
            self.client.renderer,
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            enable_auto_tools=parser is not None,
            tool_parser=parser,
        )
        self.chat = OpenAIServingChat(
            self.client,
            self._models,
            "assistant",
            online_renderer=renderer,
            request_logger=None,
            chat_template=None,
            chat_template_content_format="auto",
            enable_auto_tools=parser is not None,
            tool_parser=parser,
        )
        self.completion = OpenAIServingCompletion(
            self.client, self._models, online_renderer=renderer, request_logger=None
        )
        self.count_tokens = lru_cache(maxsize=4096)(self._count_tokens)

    @property
    def error(self) -> str:
        """Why the engine does not answer any more; empty while it does."""
        return "the engine has died; the replica is being replaced" if self.client.errored else ""

    async def prove(self) -> None:
        """Produce a token with the base model.

        Raises:
            AdapterError: it did not.
        """
        await self._prove(None)

    async def load(self, version: str, folder: Path) -> None:
        """Load an adapter version and produce a token with it.

        Raises:
            AdapterError: it did not; nothing of it stays loaded.
        """
        trouble = await asyncio.to_thread(refusal, folder, folder.name, self._max_rank)
        if trouble:
            raise AdapterError(trouble)
        request = LoRARequest(lora_name=version, lora_int_id=next(self._ids), lora_path=str(folder))
        try:
            await self.client.add_lora(request)
            await self._prove(request)
        except Exception as error:  # whatever a bad file makes the engine say, the old version keeps serving
            await self._remove(request)
            raise error if isinstance(error, AdapterError) else AdapterError(_in_one_line(error)) from error
        self._models.lora_requests[version] = request

    async def unload(self, version: str) -> None:
        await self._remove(self._models.lora_requests.pop(version))

    def shutdown(self) -> None:
        self.client.shutdown()

    async def _remove(self, request: LoRARequest) -> None:
        try:
            await self.client.remove_lora(request.lora_int_id)
        except Exception as error:  # a dead engine is replaced as a whole
            _log.warning("adapter %s is not unloaded: %s", request.lora_name, _in_one_line(error))

    async def _prove(self, adapter: LoRARequest | None) -> None:
        sampling = SamplingParams(max_tokens=1, temperature=0, logprobs=1)
        prompt = tokens_input(self._tokenizer.encode("Hello"))
        outputs = self.client.generate(prompt, sampling, f"probe-{next(self._probes)}", lora_request=adapter)
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                async for output in outputs:
                    likelihood = output.outputs[0].cumulative_logprob
        except TimeoutError:
            raise AdapterError(f"no token within {_PROBE_SECONDS:.0f} s") from None
        if likelihood is None or not math.isfinite(likelihood):
            raise AdapterError("it does not produce tokens: its weights are not finite numbers")

    def _count_tokens(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False))


def _in_one_line(error: Exception) -> str:
    """The error's own words, without the trace that some carry."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]
