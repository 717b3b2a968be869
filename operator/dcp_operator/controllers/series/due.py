"""Which scheduled time is due, and which were missed; with the rules of a CronJob.

Of all times that have passed only the latest can still be made up for: there is never a burst. A time is missed once
the next one is due, or once `startingDeadlineSeconds` have passed, whatever kept its run from beginning. It is counted
then, and never again, since the status holds the latest one that was counted.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import Missed, SeriesStatus
from dcp_operator.controllers.series.runs import Runs

AHEAD: Final = timedelta(minutes=10)
"""By which clocks differ. What is further in the future was written by a clock that was wrong, or by somebody else."""


@dataclass(frozen=True, kw_only=True)
class Due:
    """How a series stands with its schedule."""

    time: datetime | None
    """The scheduled time whose run is to begin now; None where none is."""
    deadline: datetime | None
    """When that time is missed; None where only the next one ends it."""
    missed: Missed | None
    following: datetime | None
    """The next scheduled time."""


def with_schedule(series: Series, status: SeriesStatus, now: datetime) -> SeriesStatus:
    """Return the status with the schedule that holds, and since when.

    A schedule that was changed holds from the moment that it was seen: times that it would have had are not missed. So
    does one of which times in the future have been seen: no run would begin before those.
    """
    status = _without_future(status, now)
    if status.schedule == series.schedule.text and status.schedule_since is not None:
        return status
    # A series that is seen for the first time: what was due since its creation counts, that moment itself included.
    since = now.replace(microsecond=0) if status.schedule else series.created - timedelta(seconds=1)
    return status.with_changes(schedule=series.schedule.text, schedule_since=since)


def _without_future(status: SeriesStatus, now: datetime) -> SeriesStatus:
    missed, latest = status.missed, now + AHEAD
    known = (status.schedule_since, status.last_schedule_time, missed.last_time if missed is not None else None)
    if all(each is None or each <= latest for each in known):
        return status
    seen = now.replace(microsecond=0)
    if missed is not None and missed.last_time > latest:
        missed = missed.model_copy(update={"last_time": seen})
    return status.with_changes(schedule_since=seen, last_schedule_time=None, missed=missed)


def last_begun(runs: Runs, now: datetime) -> datetime | None:
    """Return the scheduled time of the newest run; one that is far in the future tells nothing."""
    return max((each for each in runs.times if each <= now + AHEAD), default=None)


def due(series: Series, runs: Runs, status: SeriesStatus, now: datetime) -> Due:
    """Return what is due. The status has the schedule already."""
    schedule = series.schedule
    counted = status.missed.last_time if status.missed is not None else None
    known = (status.schedule_since, status.last_schedule_time, counted)
    seen = max(each for each in known if each is not None)
    # Runs whose creation no status tells of: of the times up to the last one of them those were missed that have none.
    begun = max(filter(None, (last_begun(runs, now), seen)))
    made = {each.scheduled for each in runs.all}
    missed = _with(status.missed, [each for each in schedule.times(seen, begun) if each not in made])
    time = schedule.latest(begun, now)
    deadline = None
    if time is not None:
        missed = _with(missed, schedule.times(begun, time - timedelta(seconds=1)))
        if series.spec.starting_deadline_seconds is not None:
            deadline = time + timedelta(seconds=series.spec.starting_deadline_seconds)
            if now >= deadline:
                missed, time, deadline = _with(missed, [time]), None, None
    return Due(time=time, deadline=deadline, missed=missed, following=schedule.following(now))


def _with(missed: Missed | None, times: list[datetime]) -> Missed | None:
    """Return what was missed, with more times, the last one first."""
    if not times:
        return missed
    return Missed(count=(missed.count if missed is not None else 0) + len(times), last_time=times[0])
