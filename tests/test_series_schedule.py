"""When a series is due: cron in time zones, by the library; every so often; and never by more than a bounded amount of
work."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dcp_operator.api.series.schedule import MANY, Schedule, ScheduleError, duration
from hypothesis_profile import examples

CREATED = datetime(2026, 3, 1, tzinfo=UTC)


def by(cron: str | None = None, zone: str | None = None, every: str | None = None, **fields: Any) -> Schedule:
    return Schedule.of(cron=cron, zone=zone, every=every, **{"created": CREATED} | fields)


def time(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


@pytest.mark.parametrize(
    ("schedule", "after", "due"),
    [
        (by("0 2 * * *"), "2026-03-05T01:59:59Z", "2026-03-05T02:00:00Z"),
        (by("0 2 * * *"), "2026-03-05T02:00:00Z", "2026-03-06T02:00:00Z"),
        (by("0 2 * * *", "Europe/Berlin"), "2026-03-05T00:00:00Z", "2026-03-05T01:00:00Z"),
        (by("30 2 * * *", "Europe/Berlin"), "2026-03-28T12:00:00Z", "2026-03-29T03:00:00+02:00"),
        (by("30 2 * * *", "Europe/Berlin"), "2026-10-24T12:00:00Z", "2026-10-25T02:30:00+02:00"),
        (by("30 2 * * *", "Europe/Berlin"), "2026-10-25T02:30:00+02:00", "2026-10-26T02:30:00+01:00"),
        (by("*/30 * * * *", "Europe/Berlin"), "2026-10-25T02:30:00+02:00", "2026-10-25T02:00:00+01:00"),
        (by("0 0 * * SUN"), "2026-03-02T00:00:00Z", "2026-03-08T00:00:00Z"),
        (by("0 0 29 2 *"), "2026-03-02T00:00:00Z", "2028-02-29T00:00:00Z"),
        (by(every="1h30m"), "2026-03-01T00:00:00Z", "2026-03-01T01:30:00Z"),
        (by(every="1h30m"), "2026-03-01T01:30:00Z", "2026-03-01T03:00:00Z"),
        (by(every="1h30m"), "2026-02-01T00:00:00Z", "2026-03-01T01:30:00Z"),
        (by(every="1h", immediate=True), "2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z"),
        (by("0 2 * * *", immediate=True), "2026-02-28T23:59:59Z", "2026-03-01T00:00:00Z"),
        (by("0 2 * * *", immediate=True), "2026-03-01T00:00:00Z", "2026-03-01T02:00:00Z"),
    ],
)
def test_the_next_time(schedule: Schedule, after: str, due: str) -> None:
    """A time that clocks leave out comes when they have been set forward; one that comes twice is due once."""
    assert schedule.following(time(after)) == time(due)


SCHEDULES = [
    by("30 2 * * *", "Europe/Berlin"),
    by("*/15 1-3 * * *", "America/New_York"),
    by("15 2 * * 1-6", "Australia/Lord_Howe"),
    by("*/20 * * * *", "Europe/London"),
    by("0 4 L * *"),
    by(every="7m", immediate=True),
    by("0 2 * * *", immediate=True),
]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda each: each.text)
@pytest.mark.parametrize("around", ["2026-03-08", "2026-03-29", "2026-04-05", "2026-10-04", "2026-10-25", "2026-11-01"])
@settings(max_examples=examples(8, 400), deadline=None)
@given(minutes=st.integers(0, 4 * 1440), window=st.integers(1, 1440))
def test_the_times_are_the_same_forwards_and_backwards(
    schedule: Schedule, around: str, minutes: int, window: int
) -> None:
    """Around each change of clocks: else a run would begin twice, under two names, or not at all."""
    after = datetime.fromisoformat(around).replace(tzinfo=UTC) - timedelta(days=2) + timedelta(minutes=minutes)
    until = after + timedelta(minutes=window)
    forwards: list[datetime] = []
    at = schedule.following(after)
    while at is not None and at <= until and len(forwards) < MANY:
        forwards.append(at)
        at = schedule.following(at)
    assert all(before < later for before, later in pairwise(forwards))
    if len(forwards) < MANY:
        assert schedule.times(after, until) == forwards[::-1]
        assert schedule.latest(after, until) == (forwards[-1] if forwards else None)


def test_what_was_due_a_million_times_is_counted_to_a_hundred() -> None:
    years = CREATED + timedelta(days=4000)
    for schedule in (by(every="1s", immediate=True), by("* * * * *", "Europe/Berlin")):
        assert len(schedule.times(CREATED, years)) == MANY
        assert schedule.latest(CREATED, years) == years


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "spec: has to say when; write one of schedule and every"),
        ({"cron": "0 2 * * *", "every": "1h"}, "spec: has to say when"),
        ({"every": "1h", "zone": "Etc/UTC"}, "spec.timeZone: is of a schedule"),
        ({"cron": "0 2 * *"}, "spec.schedule: has not five fields; write minute"),
        ({"cron": "@daily"}, "spec.schedule: has not five fields; write minute"),
        ({"cron": "0 0 2 * * *"}, "spec.schedule: has not five fields; write minute"),
        ({"cron": "0 25 * * *"}, "spec.schedule: its hour is none that cron knows; write minute"),
        ({"cron": "0 0 31 2 *"}, "spec.schedule: its day-of-month is none that cron knows"),
        ({"cron": "0 0 * * *", "zone": "Mars/Olympus"}, "spec.timeZone: is no time zone; write one such as Europe/"),
        ({"cron": "0 0 * * *", "zone": "../../etc/passwd"}, "spec.timeZone: is no time zone"),
        ({"every": "0h0s"}, "spec.every: is no time between two runs; write one such as 30m"),
        ({"every": "5"}, "spec.every: is no time between two runs"),
    ],
)
def test_what_can_not_be_meant(fields: dict[str, str], said: str) -> None:
    with pytest.raises(ScheduleError) as caught:
        by(**fields)
    assert str(caught.value).startswith(said)


def test_a_duration() -> None:
    assert duration("1h30m15s") == timedelta(hours=1, minutes=30, seconds=15)
    assert duration("90s") == timedelta(seconds=90)
