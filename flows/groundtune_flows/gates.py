"""Whether a candidate adapter has earned its promotion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from groundtune.api.fine_tune_job import Gate

_HIGHER_IS_BETTER = {"formatMatch"}

Metrics = Mapping[str, float]


@dataclass(frozen=True)
class Outcome:
    """A gate, whether it is passed, and a line that says why not."""

    gate: Gate
    rule: str
    passed: bool
    line: str


def judge(
    gates: Sequence[Gate], candidate: Metrics, base: Metrics, promoted: Metrics | None
) -> list[Outcome]:
    """One outcome a gate, in order. A value that is not a number passes none."""
    return [_judge(gate, candidate[gate.metric], base, promoted) for gate in gates]


def _judge(gate: Gate, value: float, base: Metrics, promoted: Metrics | None) -> Outcome:
    if gate.at_least is not None:
        rule, passed = f"at least {gate.at_least:g}", value >= gate.at_least
    elif gate.at_most is not None:
        rule, passed = f"at most {gate.at_most:g}", value <= gate.at_most
    else:
        reference = base if gate.better_than == "base" else promoted
        rule = f"better than {gate.better_than}" + (f" by {gate.by:g}" if gate.by else "")
        if reference is None:
            return Outcome(gate, rule, value == value, f"{gate.metric} {value:.4g}: nothing is promoted yet")
        other = reference[gate.metric]
        gain = value - other if gate.metric in _HIGHER_IS_BETTER else other - value
        passed = gain >= gate.by if gate.by else gain > 0
        rule += f" ({other:.4g})"
    return Outcome(gate, rule, passed, f"{gate.metric} {value:.4g} is not {rule}")
