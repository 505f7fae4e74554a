"""Which adapter each token of a batch gets on a CPU."""

from __future__ import annotations

import pytest
import torch

from groundtune_services.low_rank import add_low_rank, groups

ROWS, WIDTH, OUT, RANK, SLOTS = 7, 6, 5, 2, 3


@pytest.mark.parametrize(
    "slots",
    [
        [-1] * ROWS,
        [1] * ROWS,
        [0, 0, -1, 2, 2, -1, 2],
        [-1, -1, -1, -1, -1, -1, 2],
    ],
    ids=["base", "one", "mixed", "base beside the last slot"],
)
def test_each_row_gets_its_own_adapter_and_base_rows_none(slots: list[int]) -> None:
    torch.manual_seed(0)
    x, before = torch.randn(ROWS, WIDTH), torch.randn(ROWS, OUT)
    a, b = torch.randn(SLOTS, 1, RANK, WIDTH), torch.randn(SLOTS, 1, OUT, RANK)
    expected = before.clone()
    for row, slot in enumerate(slots):
        if slot >= 0:
            expected[row] += 0.5 * b[slot, 0] @ (a[slot, 0] @ x[row])
    wide = torch.zeros(ROWS, OUT + 4)
    view = wide[:, 2 : 2 + OUT]
    view.copy_(before)
    add_low_rank(view, x, a, b, 0.5, groups(torch.tensor(slots)))
    torch.testing.assert_close(view, expected)
    assert wide[:, :2].eq(0).all() and wide[:, 2 + OUT :].eq(0).all()
