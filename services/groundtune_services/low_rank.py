"""Low-rank adapters on rows that each belong to one of several adapters, or to none."""

from __future__ import annotations

import torch

#: The slot of an adapter, and which rows are its tokens; None are all.
Group = tuple[int, torch.Tensor | None]


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
