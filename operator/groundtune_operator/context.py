"""What a reconciliation has at hand, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pydantic import BaseModel, ValidationError

from groundtune.errors import SpecError
from groundtune_operator.cache import Body, Cache
from groundtune_operator.clients.kube import Kube
from groundtune_operator.clients.prefect import Prefect
from groundtune_operator.clients.registry import Registry
from groundtune_operator.clients.serve import Serve
from groundtune_operator.conditions import Verdict
from groundtune_operator.observer import Observer
from groundtune_operator.reasons import Reason
from groundtune_operator.settings import OperatorSettings


def utc_now() -> datetime:
    """The time, to the second: what changes below is noise in a status."""
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(frozen=True)
class Context:
    """The operator's parts."""

    settings: OperatorSettings
    cache: Cache
    kube: Kube
    prefect: Prefect
    serve: Serve
    registry: Registry
    observer: Observer
    now: Callable[[], datetime] = utc_now


@dataclass(frozen=True)
class Outcome:
    """What a reconciliation found. `fields`: the status without conditions; None leaves them as they are."""

    fields: BaseModel | None
    verdicts: list[Verdict]
    again: float | None = None


def spec_problem(error: ValidationError) -> SpecError:
    """A validation error as one line that names field, value and what is wrong."""
    first = error.errors(include_url=False)[0]
    field = ".".join(("spec", *(str(part) for part in first["loc"])))
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return SpecError(f"{field}: {first['input']!r:.200}: {first['msg']}{more}", reason=Reason.INVALID_SPEC)


def seconds_until(at: datetime | None, now: datetime) -> float | None:
    """Seconds from now until a time, at least one; None for none."""
    return None if at is None else max(1.0, (at - now).total_seconds())


def soonest(*delays: float | None) -> float | None:
    """The shortest of the delays that are given."""
    return min((delay for delay in delays if delay is not None), default=None)


def handled_request(body: Body) -> str:
    """The request that the status says was last acted on."""
    return str(body.status.get("lastHandledRequest", ""))
