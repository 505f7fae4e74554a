"""Whether the endpoint does what was declared, proven and not supposed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from groundtune.serving import AdapterReadiness, KnowledgeReadiness, Readiness, Unmet

_PROBE_SECONDS = 1.0


def decide(
    models: Sequence[str],
    adapters: Sequence[AdapterReadiness],
    knowledge: Sequence[KnowledgeReadiness],
    unmet: Sequence[Unmet] = (),
    *,
    engine_error: str,
) -> Readiness:
    """Ready when some version of every declared adapter answers and every knowledge base was just searched.

    Args:
        unmet: what is declared besides.
        engine_error: why the engine does not answer; empty if it does.
    """
    faults = [engine_error] if engine_error else []
    for adapter in adapters:
        if adapter.name:
            continue  # an older version answers until the declared one does
        if adapter.state == "Failed":
            faults.append(f"adapter {adapter.alias}: {adapter.message}")
        else:
            faults.append(f"adapter {adapter.alias} is being loaded")
    faults += [f"knowledge base {each.name}: {each.message}" for each in knowledge if each.version is None]
    faults += [f"{each.kind} {each.name} is declared, and there is none yet" for each in unmet]
    return Readiness(
        ready=not faults,
        models=list(models),
        adapters=list(adapters),
        knowledge_bases=list(knowledge),
        message="; ".join(faults),
    )


class Throttled:
    """A probe that runs at most once a second, whoever asks; meanwhile its last result stands."""

    def __init__(self, probe: Callable[[], Awaitable[list[KnowledgeReadiness]]]) -> None:
        self._probe = probe
        self._lock = asyncio.Lock()
        self._until = 0.0
        self._last: list[KnowledgeReadiness] = []

    async def __call__(self) -> list[KnowledgeReadiness]:
        async with self._lock:
            if time.monotonic() >= self._until:
                self._last = await self._probe()
                self._until = time.monotonic() + _PROBE_SECONDS
            return self._last

    def forget(self) -> None:
        """What is probed has changed."""
        self._until = 0.0
