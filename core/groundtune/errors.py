"""Errors whose text is meant for the person who wrote the spec.

GroundtuneError
└── SpecError        something that the spec names is wrong or missing
    ├── SourceError  a source, or what it holds
    └── ModelError   a model
"""

from __future__ import annotations


class GroundtuneError(Exception):
    """One clear line, with a stable CamelCase `reason` that ends up in a condition.

    The reason is the class's own unless the raiser gives a closer one.
    """

    reason = "InternalError"

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        if reason is not None:
            self.reason = reason


class SpecError(GroundtuneError):
    """Something that the spec names is wrong or missing; the message names the field and the value."""

    reason = "InvalidSpec"


class SourceError(SpecError):
    """A source can't be read, or holds nothing that fits."""

    reason = "SourceUnavailable"


class ModelError(SpecError):
    """A model can't be found or loaded."""

    reason = "ModelNotFound"
