"""What to do for a series now: a pure function of the series, its Checkpoints, its status and the time.

Level-triggered: it may run twice, late, or after a crash at any point. The name of a run derives from its scheduled
time, so that a run that was created and not written down is found, and never created twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from dcp_operator.api.checkpoint.text import counted, sentence
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import run_name
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.spec import ConcurrencyPolicy, Series
from dcp_operator.api.series.status import MOST_ACTIVE, Latest, RunFailure, SeriesReason, SeriesStatus
from dcp_operator.controllers.decision import Event
from dcp_operator.controllers.series.actions import CreateRun, DeleteRun, SeriesAction, SeriesDecision
from dcp_operator.controllers.series.adoption import adopt
from dcp_operator.controllers.series.due import Due, due, last_begun, with_schedule
from dcp_operator.controllers.series.history import outdated_runs, replaced_runs
from dcp_operator.controllers.series.reporting import events_of_change, with_conditions
from dcp_operator.controllers.series.retention import retain
from dcp_operator.controllers.series.runs import Runs

_FIRST_AGAIN: Final = timedelta(seconds=30)
_LAST_AGAIN: Final = timedelta(seconds=300)
_PART: Final = 10


def decide(series: Series, runs: Runs, status: Mapping[str, Any], now: datetime) -> SeriesDecision:
    """Return the actions to carry out, the status to write, and when to decide again.

    Args:
        series: The parsed object.
        runs: Its Checkpoints.
        status: The status as it stands in the cluster: what is not in it was never written.
        now: The time, with a time zone.
    """
    written = SeriesStatus.read(status)
    base = with_schedule(series, written, now)
    found = due(series, runs, base, now)
    start = _start(series, runs, found)
    actions: list[SeriesAction] = [start] if start is not None else []
    starts = start.name if start is not None else ""
    removals = retain(series, runs, base.retention, now)
    own = adopt(series, runs, base, now)
    deletions = [*replaced_runs(series, runs, starts), *outdated_runs(series, runs, now), *removals.delete, *own.delete]
    final = _status(series, runs, base, found, start, deletions, now).with_changes(
        retention=removals.status, refused_save=own.refused
    )
    stand = _stand(series, runs, found, final)
    final = with_conditions(final, stand.reason, stand.message, written, series.generation, now)
    return SeriesDecision(
        actions=(*own.create, *actions, *removals.create, *deletions),
        status=final.to_dict(),
        events=tuple(events_of_change(written, final, start)),
        wake_at=first(
            removals.wake_at, own.wake_at, *(() if series.spec.suspend else (found.deadline, found.following))
        ),
    )


def refuse(error: SpecError, body: ReadBody, runs: Runs, now: datetime) -> SeriesDecision:
    """Return what to do for a series whose spec can't be parsed: begin nothing, and say why. What runs goes on."""
    written = SeriesStatus.read(body.get("status"))
    if not error.writable:
        said = f"{'; '.join(error.problems)}. No status is written for it."
        event = Event(type="Warning", reason=SeriesReason.INVALID_SPEC.value, message=said)
        return SeriesDecision(actions=(), status=dict(body.get("status") or {}), events=(event,))
    reason = SeriesReason.NOT_ENABLED if error.configured else SeriesReason.INVALID_SPEC
    seen = written.with_changes(next=None, **_active(runs))
    generation = body["metadata"].get("generation", 1)
    final = with_conditions(seen, reason, "; ".join(error.problems)[:1024], written, generation, now)
    return SeriesDecision(actions=(), status=final.to_dict(), events=tuple(events_of_change(written, final, None)))


def wait_for_creation(
    series: Series, runs: Runs, status: Mapping[str, Any], decision: SeriesDecision, why: str, now: datetime
) -> SeriesDecision:
    """Return the decision when the API server does not take the Checkpoint of a run: it is tried again.

    The run stays due: its time stands in no status. It is missed when the next one is due.
    """
    written = SeriesStatus.read(status)
    started = next(each for each in decision.actions if isinstance(each, CreateRun))
    planned = SeriesStatus.read(decision.status)
    kept = planned.with_changes(
        last_schedule_time=_last((with_schedule(series, written, now).last_schedule_time, last_begun(runs, now))),
        next=started.scheduled,
        **_active(runs),
    )
    message = f"The Checkpoint {started.name} can't be created: {sentence(why)} It is tried again."
    final = with_conditions(kept, SeriesReason.RUN_REFUSED, message, written, series.generation, now)
    pause = min(_LAST_AGAIN, max(_FIRST_AGAIN, (now - started.scheduled) / _PART))
    # What makes way for this run makes no way before the run is there.
    stay = tuple(each for each in decision.actions if isinstance(each, DeleteRun) and _is_finished(runs, each.name))
    return SeriesDecision(
        actions=stay,
        status=final.to_dict(),
        events=tuple(events_of_change(written, final, None)),
        wake_at=first(now + pause, decision.wake_at),
    )


def _is_finished(runs: Runs, name: str) -> bool:
    return any(each.finished for each in runs.all if each.name == name)


def _start(series: Series, runs: Runs, found: Due) -> CreateRun | None:
    if found.time is None or series.spec.suspend:
        return None
    if series.spec.concurrency_policy is ConcurrencyPolicy.FORBID and runs.active:
        return None
    return CreateRun(name=run_name(series.name, found.time), scheduled=found.time)


def _status(
    series: Series,
    runs: Runs,
    status: SeriesStatus,
    found: Due,
    start: CreateRun | None,
    deletions: list[DeleteRun],
    now: datetime,
) -> SeriesStatus:
    """Return the status without its conditions."""
    times = (status.last_schedule_time, last_begun(runs, now), start.scheduled if start is not None else None)
    ended = (status.last_successful_time, *(each.ended for each in runs.succeeded))
    waits = found.time if start is None else None
    return status.with_changes(
        missed=found.missed,
        last_schedule_time=_last(times),
        last_successful_time=_last(ended),
        latest=_latest(runs),
        last_failure=_last_failure(status, runs),
        next=None if series.spec.suspend else waits or found.following,
        **_active(runs, start.name if start is not None else "", {each.name for each in deletions}),
    )


def _active(runs: Runs, starts: str = "", ends: set[str] | None = None) -> dict[str, object]:
    active = [each.name for each in runs.active if each.name not in {starts, *(ends or ())}]
    active = [starts, *active] if starts else active
    return {"active": tuple(active[:MOST_ACTIVE]), "active_count": len(active)}


def _latest(runs: Runs) -> Latest | None:
    committed = runs.latest
    if committed is None or committed.ended is None:
        return None
    return Latest(name=committed.name, url=committed.url, step=committed.step, time=committed.ended)


def _last_failure(status: SeriesStatus, runs: Runs) -> RunFailure | None:
    """Return the latest failure. It stays when its Checkpoint goes."""
    known = status.last_failure
    failed = next(iter(runs.failed), None)
    if failed is None or failed.ended is None or (known is not None and known.time > failed.ended):
        return known
    return RunFailure(
        name=failed.name, reason=failed.reason or failed.phase.value, message=failed.message[:1024], time=failed.ended
    )


@dataclass(frozen=True)
class _Stand:
    reason: SeriesReason
    message: str


def _stand(series: Series, runs: Runs, found: Due, status: SeriesStatus) -> _Stand:
    """Return how the series stands, in one word and for a person."""
    failure, success = status.last_failure, status.last_successful_time
    failed = failure is not None and (success is None or failure.time > success)
    upcoming = _upcoming(series, runs, found, status)
    if failed and failure is not None:
        what = f"{failure.name} failed: {failure.reason}: {sentence(failure.message)}"
        reason = SeriesReason.SUSPENDED if series.spec.suspend else SeriesReason.LAST_RUN_FAILED
        return _Stand(reason, f"{what} {upcoming}")
    if series.spec.suspend:
        return _Stand(SeriesReason.SUSPENDED, upcoming)
    unremoved = status.retention.unremoved if status.retention is not None else ()
    if unremoved:
        first = unremoved[0]
        what = f"{first.url} can't be removed: {first.reason}: {sentence(first.message)}"
        return _Stand(SeriesReason.REMOVAL_FAILED, f"{what} It is tried again after an hour. {upcoming}")
    if series.schedule.never and not runs.served:
        return _Stand(SeriesReason.NOT_ENABLED, "This operator has no channel to trainings: see its log.")
    if found.following is None and found.time is None and not series.schedule.never:
        return _Stand(SeriesReason.NEVER_DUE, "No run is due any more; write another spec.schedule.")
    latest = f"Latest checkpoint: {status.latest.url}. " if status.latest is not None else ""
    return _Stand(SeriesReason.SCHEDULED, f"{latest}{upcoming}")


def _upcoming(series: Series, runs: Runs, found: Due, status: SeriesStatus) -> str:
    under_way = f"{status.active[0]} is under way. " if status.active else ""
    if status.active_count > 1:
        under_way = f"{counted(status.active_count, 'run')} are under way, {status.active[0]} the newest. "
    if series.spec.suspend:
        return f"{under_way}spec.suspend is true: no run begins."
    if series.schedule.never:
        return f"{under_way}Each save that the training makes by itself becomes a Checkpoint of the series."
    waiting = runs.active and found.time is not None and status.next == found.time
    if waiting:
        return f"{under_way}The run of {_said(found.time)} begins when it has ended (concurrencyPolicy: Forbid)."
    return f"{under_way}The next run is due at {_said(status.next)}."


def _said(time: datetime | None) -> str:
    return f"{time:%Y-%m-%d %H:%M:%SZ}" if time is not None else "no time"


def _last(times: tuple[datetime | None, ...]) -> datetime | None:
    return max((each for each in times if each is not None), default=None)


def first(*times: datetime | None) -> datetime | None:
    """Return the first of some times."""
    return min((each for each in times if each is not None), default=None)
