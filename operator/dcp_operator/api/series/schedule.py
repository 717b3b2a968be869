"""When the runs of a series are due: by cron in a time zone, or every so often. All times that it returns are in UTC.

A time is due once, also where clocks are set back; a time that clocks leave out is due when they have been set forward.
That is Debian's cron, by `cronsim`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from dcp_contract.durations import parse_duration

MANY: Final = 100
"""Times that are looked at, at most: a series that was due a million times while nobody looked costs no more."""
_SHIFT: Final = timedelta(hours=3)
"""More than any clock is set forward or back: so far around a time is looked, since local times don't grow steadily."""
_FIELDS: Final = 5
_NEVER: Final = "as the training saves"


class ScheduleError(ValueError):
    """A schedule that can't be meant; it says what to write, as `field: what is wrong; write ...`."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When runs are due.

    Args:
        text: The schedule in words: another text is another schedule.
        created: When the series was created: no run is due earlier.
        immediate: Whether one is due then.
        cron: The five fields; empty where `every` says it.
        zone: The zone of their times.
        every: Time between two runs, counted from the creation.
    """

    text: str
    created: datetime
    immediate: bool = False
    cron: str = ""
    zone: tzinfo = UTC
    every: timedelta = timedelta(0)

    @classmethod
    def of(
        cls,
        *,
        cron: str | None,
        zone: str | None,
        every: str | None,
        created: datetime,
        immediate: bool = False,
        adopts: bool = False,
    ) -> "Schedule":
        """Return the schedule of a spec's fields; `adopts` says that it may have none.

        Raises:
            ScheduleError: It can't be meant.
        """
        if cron is None and every is None and adopts and zone is None:
            if immediate:
                raise ScheduleError("spec.immediate: is of a schedule; drop it, or write every")
            return cls(text=_NEVER, created=created)
        if (cron is None) == (every is None):
            raise ScheduleError("spec: has to say when; write one of schedule and every")
        if every is not None:
            if zone is not None:
                raise ScheduleError("spec.timeZone: is of a schedule; drop it, or write schedule in place of every")
            return cls(text=f"every {every}", created=created, immediate=immediate, every=duration(every))
        cron = " ".join((cron or "").split())
        found = cls(
            text=cron if zone is None else f"{cron} ({zone})",
            created=created,
            immediate=immediate,
            cron=cron,
            zone=_zone(zone),
        )
        _check(found)
        return found

    @property
    def never(self) -> bool:
        """Whether no run is ever due: the series takes what its training saves by itself, and nothing else."""
        return not self.cron and not self.every

    def latest(self, after: datetime, until: datetime) -> datetime | None:
        """Return the last time that is due after one time and not after another one."""
        return next(self._between(after, until), None)

    def times(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the last times that are due after one time and not after another one, the last first; MANY at most."""
        return list(islice(self._between(after, until), MANY))

    def following(self, after: datetime) -> datetime | None:
        """Return the first time that is due after a time; None where none ever is."""
        if self.immediate and after < self.created:
            return self.created
        after = max(after, self.created)
        if self.every:
            return self.created + ((after - self.created) // self.every + 1) * self.every
        return next((each for each in self._cron(after - _SHIFT) if each > after), None) if self.cron else None

    def _between(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """Yield the times that are due after one time and not after another one, the last one first."""
        yield from takewhile(lambda each: each > max(after, self.created), self._back(until))
        if self.immediate and after < self.created <= until:
            yield self.created

    def _back(self, until: datetime) -> Iterator[datetime]:
        if self.every:
            number = (until - self.created) // self.every
            yield from (self.created + each * self.every for each in range(number, 0, -1))
            return
        if self.never:
            return
        yield from (each for each in self._cron(until + _SHIFT, back=True) if each <= until)

    def _cron(self, start: datetime, *, back: bool = False) -> Iterator[datetime]:
        # One second on: the library leaves out the time that it begins at.
        start += timedelta(seconds=1 if back else 0)
        return (each.astimezone(UTC) for each in CronSim(self.cron, start.astimezone(self.zone), reverse=back))


def duration(text: str) -> timedelta:
    """Return a duration such as 1h30m.

    Raises:
        ScheduleError: It is none, or no time at all.
    """
    try:
        found = parse_duration(text)
    except ValueError:
        found = timedelta(0)
    if not found:
        raise ScheduleError("spec.every: is no time between two runs; write one such as 30m or 1h30m, at least 1s")
    return found


def _zone(name: str | None) -> tzinfo:
    if name is None:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ScheduleError("spec.timeZone: is no time zone; write one such as Europe/Berlin or Etc/UTC") from error


def _check(schedule: Schedule) -> None:
    form = "write minute, hour, day of the month, month and day of the week, such as 0 2 * * *"
    if len(schedule.cron.split()) != _FIELDS:
        raise ScheduleError(f"spec.schedule: has not five fields; {form}")
    try:
        first = schedule.following(schedule.created)
    except CronSimError as error:
        wrong = str(error).removeprefix("Bad ")
        raise ScheduleError(f"spec.schedule: its {wrong} is none that cron knows; {form}") from error
    if first is None:
        raise ScheduleError("spec.schedule: is never due, in 50 years; write a day that its months have")
