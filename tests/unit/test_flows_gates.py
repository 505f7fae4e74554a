"""Promotion gates of adapters."""

from __future__ import annotations

import math
from typing import Any

import pytest

from groundtune.api.fine_tune_job import Gate
from groundtune_flows.gates import judge

BASE = {"loss": 2.0, "perplexity": 7.4, "formatMatch": 0.1}
PROMOTED = {"loss": 1.0, "perplexity": 2.7, "formatMatch": 0.9}


@pytest.mark.parametrize(
    ("gate", "value", "passed"),
    [
        ({"metric": "formatMatch", "atLeast": 0.8}, 0.8, True),
        ({"metric": "formatMatch", "atLeast": 0.8}, 0.79, False),
        ({"metric": "loss", "atMost": 1.5}, 1.5, True),
        ({"metric": "loss", "atMost": 1.5}, 1.51, False),
        ({"metric": "loss", "betterThan": "base"}, 1.99, True),
        ({"metric": "loss", "betterThan": "base"}, 2.0, False),
        ({"metric": "formatMatch", "betterThan": "base"}, 0.2, True),
        ({"metric": "formatMatch", "betterThan": "base"}, 0.1, False),
        ({"metric": "loss", "betterThan": "base", "by": 0.5}, 1.5, True),
        ({"metric": "loss", "betterThan": "base", "by": 0.5}, 1.6, False),
        ({"metric": "loss", "betterThan": "promoted", "by": -0.5}, 1.4, True),
        ({"metric": "loss", "betterThan": "promoted", "by": -0.5}, 1.6, False),
        ({"metric": "loss", "betterThan": "base"}, math.nan, False),
        ({"metric": "loss", "atMost": 9.0}, math.nan, False),
    ],
)
def test_a_gate(gate: dict[str, Any], value: float, passed: bool) -> None:
    candidate = {**BASE, gate["metric"]: value}
    (outcome,) = judge([Gate.model_validate(gate)], candidate, BASE, PROMOTED)
    assert outcome.passed is passed
    assert gate["metric"] in outcome.line


def test_better_than_promoted_passes_while_nothing_is_promoted() -> None:
    gate = Gate(metric="loss", better_than="promoted")
    (outcome,) = judge([gate], {"loss": 9.0}, BASE, None)
    assert outcome.passed
    (outcome,) = judge([gate], {"loss": math.nan}, BASE, None)
    assert not outcome.passed


def test_the_line_says_what_was_measured_and_what_was_asked() -> None:
    (outcome,) = judge([Gate(metric="loss", better_than="base", by=0.5)], {"loss": 1.8}, BASE, None)
    assert outcome.line == "loss 1.8 is not better than base by 0.5 (2)"
