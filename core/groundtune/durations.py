"""Durations as Kubernetes users write them."""

from __future__ import annotations

import re
from datetime import timedelta

_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def parse_duration(text: str) -> timedelta:
    """`1h30m` → 1.5 hours.

    Raises:
        ValueError: `text` is not a sequence of numbers with ms, s, m, h or d.
    """
    if not text or _PART.sub("", text):
        raise ValueError(
            f"{text!r} is not a duration; write numbers with ms, s, m, h or d, such as 90s or 1h30m"
        )
    return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text)))
