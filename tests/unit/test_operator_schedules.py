"""Schedules in time zones, and freshness by age."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from prefect.server.schemas.schedules import CronSchedule

from groundtune.errors import SpecError
from groundtune_operator.freshness import by_age
from groundtune_operator.reasons import Reason
from groundtune_operator.schedules import Schedule, next_time, validate


def _at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _next(cron: str, zone: str, now: str) -> str:
    due = next_time(Schedule(cron, zone, active=True), _at(now))
    assert due is not None
    return f"{due:%Y-%m-%dT%H:%M}"


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-01-15T12:00", "2026-01-16T02:00"),  # winter: an hour ahead of UTC
        ("2026-07-15T12:00", "2026-07-16T01:00"),  # summer: two
        ("2026-03-28T12:00", "2026-03-29T01:00"),  # the clock is put forward in between
        ("2026-10-24T12:00", "2026-10-25T02:00"),  # and back
    ],
)
def test_three_in_the_morning_stays_three_in_the_morning(now: str, due: str) -> None:
    assert _next("0 3 * * *", "Europe/Berlin", now) == due


def test_an_hour_that_comes_twice_counts_once() -> None:
    first = _next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00")
    assert first == "2026-10-25T00:30"
    assert _next("30 2 * * *", "Europe/Berlin", first) == "2026-10-26T01:30"
    assert _next("30 2 * * *", "Europe/Berlin", "2026-10-25T01:15") == "2026-10-26T01:30"


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])
@pytest.mark.parametrize(
    "cron", ["30 2 * * *", "0 */6 * * *", "15 1 * * sun", "0 0 1 * *", "*/20 1-3 * * 6,0"]
)
@pytest.mark.parametrize(
    "start", ["2026-03-07T12:00", "2026-03-28T12:00", "2026-04-04T10:00", "2026-10-24T12:00"]
)
async def test_it_is_due_when_prefect_says(zone: str, cron: str, start: str) -> None:
    now, ours = _at(start) + timedelta(seconds=1), []
    dates = await CronSchedule(cron=cron, timezone=zone).get_dates(n=4, start=now)
    for _ in dates:
        due = next_time(Schedule(cron, zone, active=True), now)
        assert due is not None
        now = due
        ours.append(due)
    assert ours == [date.astimezone(UTC) for date in dates]


def test_a_suspended_schedule_is_never_due() -> None:
    now = _at("2026-01-01T00:00")
    assert next_time(Schedule("0 3 * * *", "UTC", active=False), now) is None
    assert next_time(Schedule(None, "UTC", active=True), now) is None


@pytest.mark.parametrize("zone", ["Mars/Phobos", "../etc/passwd", "Europe", "CEST"])
def test_a_zone_that_is_none_is_named(zone: str) -> None:
    with pytest.raises(SpecError, match=r"spec\.refresh\.timeZone") as caught:
        validate(Schedule("0 3 * * *", zone, active=True), "spec.refresh")
    assert caught.value.reason == "InvalidTimeZone"
    assert zone in str(caught.value)


def test_a_date_that_never_comes_is_named() -> None:
    with pytest.raises(SpecError, match=r"spec\.retraining\.schedule: '0 0 31 4 \*'") as caught:
        validate(Schedule("0 0 31 4 *", "UTC", active=True), "spec.retraining")
    assert caught.value.reason == "InvalidSchedule"


def test_freshness_ends_when_the_limit_does() -> None:
    since = _at("2026-01-01T00:00")
    limit = timedelta(hours=24)
    fresh = by_age(
        "successful refresh", Reason.NEVER_REFRESHED, since, limit, None, since + timedelta(hours=23)
    )
    assert fresh.verdict.status == "True"
    assert fresh.until is not None
    stale = by_age("successful refresh", Reason.NEVER_REFRESHED, since, limit, None, fresh.until)
    assert (stale.verdict.status, stale.verdict.reason) == ("False", "TooOld")
    assert (
        by_age("successful refresh", Reason.NEVER_REFRESHED, None, limit, None, since).verdict.reason
        == "NeverRefreshed"
    )
