"""What a document says of itself beside its text, for searches to filter by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import date
from typing import Any

import yaml

Attributes = Mapping[str, bool | float | str]

#: Attributes of a document, and characters of a key and of a value; OpenAI's vector stores take as many.
_MOST, _KEY, _VALUE = 16, 64, 512

#: Characters of front matter that are read.
_FRONT_MATTER = 50_000

FRONT_MATTER = re.compile(r"\A---[ \t]*(?:\r\n?|\n)(.*?)(?:\r\n?|\n)---[ \t]*(?:\r\n?|\n|\Z)", re.DOTALL)


def front_matter(text: str) -> Attributes:
    """Attributes from the YAML block at a Markdown text's start; none where that isn't one."""
    found = FRONT_MATTER.match(text)
    if found is None or found.end() > _FRONT_MATTER:
        return {}
    try:
        said = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return attributes(said) if isinstance(said, Mapping) else {}


def attributes(said: Mapping[Any, Any]) -> Attributes:
    """Those that can be filtered by: texts, numbers, booleans and dates (as ISO 8601 texts), up to 16."""
    kept: dict[str, bool | float | str] = {}
    for key, value in said.items():
        if isinstance(value, date):
            value = value.isoformat()
        if isinstance(value, str):
            value = value.replace("\0", "")[:_VALUE]
        elif not isinstance(value, bool | int | float) or not math.isfinite(value):
            continue
        kept[str(key).replace("\0", "")[:_KEY]] = value
        if len(kept) == _MOST:
            break
    return kept
