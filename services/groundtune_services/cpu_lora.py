"""Adapters on a CPU: each token gets its own adapter, and tokens of the base model none.

vLLM 0.32 multiplies every token of the base model with whatever adapter sits in the last slot (it takes "no adapter",
-1, for an index; vllm-project/vllm pull requests 48421 and 49656), and copies the adapter's weights once for each
token. Here the tokens of an adapter are multiplied together. vLLM finds `install` by its entry point, in each process.
"""

from __future__ import annotations

from typing import Any

import torch
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform

from groundtune_services.low_rank import add_low_rank, groups


def install() -> None:
    """Let vLLM use `GroupedLora` if the engine runs on a CPU."""
    if current_platform.is_cpu():
        name = f"{GroupedLora.__module__}.{GroupedLora.__name__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda cls: name)


class GroupedLora(PunicaWrapperCPU):  # type: ignore[misc]  # vLLM is not followed by the type checker
    """vLLM's bookkeeping of which token has which adapter, with `add_low_rank` for the arithmetic."""

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """A new batch."""
        super().update_metadata(*args, **kwargs)
        self._tokens = groups(self.token_lora_indices)
        self._samples = groups(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        **_: Any,
    ) -> None:
        """Add the adapters' part to a linear layer that may be several side by side, such as q, k and v."""
        if not self._tokens:
            return
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        start = 0
        for a, b, width in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            add_low_rank(y[:, start : start + width], x, a, b, scale, self._tokens)
            start += width

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **_: Any,
    ) -> None:
        """Add the adapters' part to the logits."""
        y, x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        width = min(y.shape[1], lora_b_stacked.shape[-2])
        add_low_rank(y[:, :width], x, lora_a_stacked, lora_b_stacked[..., :width, :], scale, self._samples)
