"""Field types that the three kinds share, and the shape of a resource."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

GROUP = "groundtune.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"

#: Set to any new value (a timestamp, by convention) to ask for a run now.
REQUEST_ANNOTATION = f"{GROUP}/requestedAt"
#: Names a version to make live again: `3`, or `3@` and anything, to ask for the same version once more.
ROLLBACK_ANNOTATION = f"{GROUP}/rollbackTo"

NAME_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"


def cel(rule: str, message: str) -> dict[str, str]:
    """One `x-kubernetes-validations` entry."""
    return {"rule": rule, "message": message}


def exactly_one(*fields: str, what: str) -> dict[str, str]:
    """A rule for an object that has to have one of the fields; where it has several, the message names them.

    Args:
        what: noun for what the fields are.
    """
    listed = ", ".join(f"has(self.{field}) ? '{field}' : ''" for field in fields)
    given = f"[{listed}].filter(x, x != '')"
    message = f"give exactly one {what}: {', '.join(fields[:-1])} or {fields[-1]}"
    return cel(f"{given}.size() == 1", message) | {
        "messageExpression": f"'{message}; there ' + "
        f"({given}.size() == 0 ? 'is none' : 'are ' + {given}.join(' and '))"
    }


def rules(*entries: dict[str, str]) -> dict[str, Any]:
    """`json_schema_extra` that carries CEL rules into the CRD."""
    return {"x-kubernetes-validations": list(entries)}


class ApiModel(BaseModel):
    """camelCase on the wire, unknown fields refused, immutable once parsed."""

    model_config = ConfigDict(
        extra="forbid", alias_generator=to_camel, populate_by_name=True, frozen=True, serialize_by_alias=True
    )


def _cron_field(number: str, names: str = "") -> str:
    value = f"({number}{'|' + names if names else ''})"
    item = rf"(\*|{value}(-{value})?)(/[1-9][0-9]*)?"
    return f"{item}(,{item})*"


_CRON_PATTERN = (
    r"^("
    + r"\s+".join(
        (
            _cron_field(r"[0-5]?[0-9]"),
            _cron_field(r"[01]?[0-9]|2[0-3]"),
            _cron_field(r"0?[1-9]|[12][0-9]|3[01]"),
            _cron_field(r"0?[1-9]|1[0-2]", "(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)"),
            _cron_field(r"[0-7]", "(?i:sun|mon|tue|wed|thu|fri|sat)"),
        )
    )
    + r")$"
)


def worded(pattern: str, message: str, *more: str) -> tuple[Any, Any]:
    """What a string has to match, refused in words: a schema's `pattern` would show people the expression itself.

    Args:
        more: CEL expressions that have to hold too.
    """

    def check(value: str) -> str:
        if re.search(pattern, value) is None:
            raise ValueError(message)
        return value

    rule = " && ".join([f"self.matches({json.dumps(pattern)})", *more])
    return AfterValidator(check), Field(json_schema_extra=rules(cel(rule, message)))


Cron = Annotated[
    str,
    Field(min_length=1, max_length=120),
    *worded(
        _CRON_PATTERN,
        "has to be five cron fields, such as 0 */6 * * *: minute, hour, day of month, month, day of week",
    ),
]
TimeZone = Annotated[
    str,
    Field(min_length=1, max_length=64),
    *worded(
        r"^[A-Za-z][A-Za-z0-9_+\-]*(/[A-Za-z0-9_+\-]+)*$",
        "has to be a time zone of the IANA database, such as Europe/Berlin",
        # fails where the zone is not known
        "timestamp('2000-01-01T00:00:00Z').getHours(self) >= 0",
    ),
]
#: Go-style, as Kubernetes users write it: `90s`, `12h`, `1h30m`, `7d`.
Duration = Annotated[
    str,
    Field(min_length=1, max_length=32),
    *worded(r"^([0-9]+(\.[0-9]+)?(ms|s|m|h|d))+$", "has to be a duration, such as 90s, 12h, 1h30m or 7d"),
]
Name = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$")]
ModelUri = Annotated[
    str,
    Field(min_length=1, max_length=512),
    *worded(
        r"^(hf://[\w.-]+/[\w.-]+|package://[A-Za-z0-9._-]+|file:///.*)$",
        "has to be hf://ORGANIZATION/NAME, package://NAME or file:///PATH",
    ),
]
Glob = Annotated[str, Field(min_length=1, max_length=256)]


class Condition(ApiModel):
    """One aspect of the resource's state, in the form that kstatus and `kubectl wait` read."""

    type: str = Field(max_length=64, description="Name of the aspect, CamelCase.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: str = Field(
        max_length=128,
        pattern=r"^[A-Za-z][A-Za-z0-9]*$",
        description="Stable CamelCase word for the cause; every one is in the troubleshooting guide.",
    )
    message: str = Field(
        "", max_length=4096, description="The cause in words, with the failing part's own error."
    )
    observed_generation: int = Field(0, ge=0, description="The spec generation that this was observed for.")
    last_transition_time: AwareDatetime = Field(description="When the status last changed.")


class RunCost(ApiModel):
    """What the runs of a resource have used so far."""

    tokens: int = Field(0, ge=0, description="Tokens embedded or trained on, over all runs.")
    seconds: float = Field(0, ge=0, description="Seconds of run time, over all runs.")
    amount: float = Field(
        0, ge=0, description="What that cost by the prices that were in force, in `currency`, over all runs."
    )
    currency: str = Field("", max_length=3, description="ISO 4217 code of the amount.")


Conditions = Annotated[
    list[Condition],
    Field(
        default_factory=list,
        max_length=32,
        description="Ready, Reconciling and Stalled as kstatus defines them, and the kind's own.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    ),
]


@dataclass(frozen=True)
class Column:
    """A printer column of `kubectl get`."""

    name: str
    type: Literal["string", "integer", "number", "date", "boolean"]
    json_path: str
    description: str
    priority: int = 0
    format: str = ""


READY_COLUMNS = (
    Column(
        "Ready", "string", '.status.conditions[?(@.type=="Ready")].status', "Whether it does its job now."
    ),
    Column("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', "Why it is or is not ready."),
)
AGE_COLUMN = Column("Age", "date", ".metadata.creationTimestamp", "Time since creation.")


class Resource(BaseModel):
    """A kind: its names, its spec and status types, and its printer columns."""

    kind_name: ClassVar[str]
    plural: ClassVar[str]
    short: ClassVar[str]
    summary: ClassVar[str]
    spec_type: ClassVar[type[ApiModel]]
    status_type: ClassVar[type[ApiModel]]
    columns: ClassVar[tuple[Column, ...]]
