"""Filters on documents' attributes, in the form of OpenAI's vector store search."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, Field, model_validator

#: Comparisons that a filter may have.
MAX_COMPARISONS = 64
_MAX_DEPTH = 5

Scalar = bool | float | str
_Text = Annotated[str, Field(max_length=512)]
_Scalar = bool | float | _Text

_ORDERED = {"gt": ">", "gte": ">=", "lt": "<", "lte": "<="}


class Comparison(BaseModel):
    """An attribute against a value. One that a document lacks is equal to nothing, and in no list."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]
    key: Annotated[str, Field(min_length=1, max_length=64)]
    value: _Scalar | Annotated[list[_Scalar], Field(min_length=1, max_length=256)]

    @model_validator(mode="after")
    def _fits(self) -> Comparison:
        if (self.type in ("in", "nin")) != isinstance(self.value, list):
            wanted = "a list" if self.type in ("in", "nin") else "a text, a number or a boolean"
            raise ValueError(f"value of type {self.type} has to be {wanted}")
        return self


class Compound(BaseModel):
    """Several filters, all of which (and) or one of which (or) has to hold."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["and", "or"]
    filters: Annotated[list[Filter], Field(min_length=1, max_length=MAX_COMPARISONS)]

    @model_validator(mode="after")
    def _bounded(self) -> Compound:
        if _depth(self) > _MAX_DEPTH:
            raise ValueError(f"filters may be nested {_MAX_DEPTH} deep")
        if sum(1 for _ in _comparisons(self)) > MAX_COMPARISONS:
            raise ValueError(f"a filter may have {MAX_COMPARISONS} comparisons")
        return self


Filter = Annotated[Comparison | Compound, Field(discriminator="type")]


def _depth(filter_: Comparison | Compound) -> int:
    return 1 + max(map(_depth, filter_.filters)) if isinstance(filter_, Compound) else 0


def _comparisons(filter_: Comparison | Compound) -> Iterator[Comparison]:
    if isinstance(filter_, Comparison):
        yield filter_
    else:
        for each in filter_.filters:
            yield from _comparisons(each)


@dataclass
class Condition:
    """SQL that holds for documents `d` which a filter takes, and what it is bound to."""

    sql: str = "true"
    values: dict[str, Any] = field(default_factory=dict)


def condition(filter_: Comparison | Compound) -> Condition:
    """The filter as SQL."""
    made = Condition()
    made.sql = _sql(filter_, made.values)
    return made


def _sql(filter_: Comparison | Compound, values: dict[str, Any]) -> str:
    if isinstance(filter_, Compound):
        return "(" + f" {filter_.type.upper()} ".join(_sql(each, values) for each in filter_.filters) + ")"

    def bound(value: Any) -> str:
        name = f"filter_{len(values)}"
        values[name] = value
        return f"%({name})s"

    if filter_.type in _ORDERED:
        attribute, value = f"d.attributes -> {bound(filter_.key)}", bound(Jsonb(filter_.value))
        # jsonb orders values of different types, too, which no filter means
        same = f"jsonb_typeof({attribute}) = jsonb_typeof({value})"
        return f"({same} AND {attribute} {_ORDERED[filter_.type]} {value}) IS TRUE"
    wanted = filter_.value if isinstance(filter_.value, list) else [filter_.value]
    # containment, as an index on the attributes answers it
    any_of = " OR ".join(f"d.attributes @> {bound(Jsonb({filter_.key: each}))}" for each in wanted)
    return f"({any_of})" if filter_.type in ("eq", "in") else f"NOT ({any_of})"
