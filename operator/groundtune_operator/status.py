"""What to send so that a status becomes another one: nothing, if it already is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel


def dump(status: BaseModel, conditions: list[dict[str, Any]]) -> dict[str, Any]:
    """A status as it goes into the resource; absent optional fields are left out."""
    fields: dict[str, Any] = status.model_dump(
        mode="json", by_alias=True, exclude_none=True, exclude={"conditions"}
    )
    return fields | {"conditions": conditions}


def merge_patch(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON merge patch (RFC 7396) from `old` to `new`; empty if they are equal."""
    patch: dict[str, Any] = {key: None for key in old if key not in new}
    for key, value in new.items():
        before = old.get(key)
        if key in old and before == value:
            continue
        nested = isinstance(before, Mapping) and isinstance(value, Mapping)
        patch[key] = merge_patch(before, value) if nested else value  # type: ignore[arg-type]
    return patch
