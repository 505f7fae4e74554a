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

#: The slot of an adapter, and which rows are its tokens; None are all.
Group = tuple[int, torch.Tensor | None]


def install() -> None:
    """Let vLLM use `GroupedLora` if the engine runs on a CPU."""
    if current_platform.is_cpu():
        name = f"{GroupedLora.__module__}.{GroupedLora.__name__}"
        type(current_platform).get_punica_wrapper = classmethod(lambda cls: name)


def groups(slots: torch.Tensor) -> list[Group]:
    """Rows by adapter.

    Args:
        slots: of each row, shape (rows,); -1 is the base model.
    """
    present = torch.unique(slots).tolist()
    if len(present) == 1:
        return [] if present[0] < 0 else [(present[0], None)]
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in present if slot >= 0]


def add_low_rank(
    y: torch.Tensor, x: torch.Tensor, a: torch.Tensor, b: torch.Tensor, scale: float, found: list[Group]
) -> None:
    """y += scale · x Aᵀ Bᵀ, each row with the A and B of its adapter (Hu et al., LoRA, ICLR 2022).

    Args:
        y: changed in place, shape (rows, out).
        x: shape (rows, in).
        a: shape (slots, 1, rank, in).
        b: shape (slots, 1, out, rank).
    """
    for slot, rows in found:
        own = x if rows is None else x[rows]
        low = (own @ a[slot, 0].T).to(y.dtype)
        up = b[slot, 0].T.to(y.dtype)
        if rows is None:
            y.addmm_(low, up, alpha=scale)
        else:
            y.index_add_(0, rows, low @ up, alpha=scale)


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
