"""Whether what is live is as new as the spec asks for."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from groundtune_operator.conditions import Verdict, timestamp, verdict
from groundtune_operator.reasons import Reason
from groundtune_operator.runs import Run


@dataclass(frozen=True)
class Freshness:
    """The condition, and when it stops being true if nothing happens."""

    verdict: Verdict
    until: datetime | None = None


def by_age(
    what: str,
    never: Reason,
    since: datetime | None,
    limit: timedelta | None,
    failure: Run | None,
    now: datetime,
) -> Freshness:
    """Fresh by the age of the last success; without a limit, by whether the newest run failed.

    Args:
        what: what counts as success, such as `successful refresh`.
        never: the reason when there has been none.
        since: when there was one last.
    """
    if since is None:
        return Freshness(verdict("Fresh", False, never, f"there has been no {what} yet"))
    last = f"the last {what} was at {timestamp(since)}"
    if limit is not None:
        if now - since > limit:
            return Freshness(verdict("Fresh", False, Reason.TOO_OLD, f"{last}, more than {limit} ago"))
        return Freshness(
            verdict("Fresh", True, Reason.UP_TO_DATE, last), since + limit + timedelta(seconds=1)
        )
    if failure is not None:
        return Freshness(
            verdict("Fresh", False, Reason.LAST_RUN_FAILED, f"{last}; since then: {failure.message}")
        )
    return Freshness(verdict("Fresh", True, Reason.UP_TO_DATE, last))
