"""Cron schedules in a time zone: whether they make sense, and when they are due next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter

from groundtune.errors import SpecError
from groundtune_operator.reasons import Reason


@dataclass(frozen=True)
class Schedule:
    """When runs start by themselves. Without a `cron` they never do."""

    cron: str | None
    time_zone: str
    active: bool


def validate(schedule: Schedule, field: str) -> None:
    """Check what the schema can't: that the zone exists, and that the expression ever comes due.

    Args:
        field: path of the schedule's object in the spec, such as `spec.refresh`.

    Raises:
        SpecError: with the reason InvalidTimeZone or InvalidSchedule.
    """
    try:
        zone = ZoneInfo(schedule.time_zone)
    except (LookupError, ValueError, OSError) as error:
        raise SpecError(
            f"{field}.timeZone: {schedule.time_zone!r} is not a time zone of the IANA database; "
            "write one such as Europe/Berlin, or UTC",
            reason=Reason.INVALID_TIME_ZONE,
        ) from error
    if schedule.cron is None:
        return
    try:
        croniter(schedule.cron, datetime.now(zone)).get_next()
    except CroniterError as error:
        raise SpecError(
            f"{field}.schedule: {schedule.cron!r} never comes due ({error}); "
            "write five fields, such as `0 */6 * * *`: minute, hour, day of month, month, day of week",
            reason=Reason.INVALID_SCHEDULE,
        ) from error


def next_time(schedule: Schedule, now: datetime) -> datetime | None:
    """When a valid schedule is due next, in UTC; None if it does not run.

    As Prefect has it: the expression is read on the wall clock, so that an hour that comes twice counts once.
    """
    if schedule.cron is None or not schedule.active:
        return None
    zone = ZoneInfo(schedule.time_zone)
    times = croniter(schedule.cron, now.astimezone(zone).replace(tzinfo=None))
    while True:
        due = _on_the_clock(times.get_next(datetime), zone)
        if due > now:
            return due


def _on_the_clock(wall: datetime, zone: ZoneInfo) -> datetime:
    """The moment at which a wall clock shows a time: the first, or for one that is left out the one it would be by
    the new offset."""
    for fold in (0, 1):
        moment = wall.replace(tzinfo=zone, fold=fold).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == wall:
            break
    return moment
