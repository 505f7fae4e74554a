"""The model names of an endpoint, and what each stands for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Route:
    """How a request is answered.

    `name` is what the client asked for; `adapter` an adapter version (None: the base model alone).
    """

    name: str
    adapter: str | None
    grounded: bool


def routes(served_name: str, *, adapter: str | None, grounded: bool) -> dict[str, Route]:
    """Every model that can be asked for now, by name, in the order of `/v1/models`.

    Args:
        adapter: the adapter version that answers now, None if none is loaded.
        grounded: whether a knowledge base grounds the answers.
    """
    found = [
        Route(served_name, adapter, grounded),
        Route(f"{served_name}:base", None, grounded=False),
    ]
    if adapter is not None:
        found.append(Route(f"{served_name}:tuned", adapter, grounded=False))
    if grounded:
        found.append(Route(f"{served_name}:grounded", None, grounded=True))
    return {route.name: route for route in found}
