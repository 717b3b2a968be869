"""What users see of a series' status: its conditions, and the events of a change."""

from collections.abc import Iterator
from datetime import datetime
from typing import Final, Literal

from dcp_operator.api.checkpoint.status import Condition
from dcp_operator.api.series.status import SeriesReason, SeriesStatus
from dcp_operator.controllers.decision import Event
from dcp_operator.controllers.series.actions import CreateRun

_TRUTH: Final[dict[bool, Literal["True", "False"]]] = {True: "True", False: "False"}
_EVENT_LIMIT: Final = 1000
_MESSAGE_LIMIT: Final = 1800
_STALLED: Final = {
    SeriesReason.INVALID_SPEC,
    SeriesReason.LAST_RUN_FAILED,
    SeriesReason.REMOVAL_FAILED,
    SeriesReason.NEVER_DUE,
}
"""A person has to act, or the next run has to succeed."""
_RECONCILING: Final = {SeriesReason.RUN_REFUSED, SeriesReason.NOT_ENABLED}
_NORMAL: Final = {SeriesReason.SCHEDULED, SeriesReason.SUSPENDED}


def with_conditions(
    status: SeriesStatus, reason: SeriesReason, message: str, written: SeriesStatus, generation: int, now: datetime
) -> SeriesStatus:
    """Return the status with its conditions. A condition's time changes only with its state; other conditions stay.

    A series is Ready while its schedule holds and its last run did not fail, whether a run is under way or not: a run
    has conditions of its own.
    """
    states = {
        "Ready": reason is SeriesReason.SCHEDULED,
        "Reconciling": reason in _RECONCILING,
        "Stalled": reason in _STALLED,
        "Suspended": reason is SeriesReason.SUSPENDED,
    }
    known = {each.type: each for each in written.conditions}
    stamp = now.replace(microsecond=0)
    others = tuple(each for each in written.conditions if each.type not in states)
    own = tuple(
        Condition(
            type=kind,
            status=state,
            reason=reason.value,
            message=message[:_MESSAGE_LIMIT] if holds or kind == "Ready" else "",
            last_transition_time=old.last_transition_time
            if (old := known.get(kind)) and old.status == state
            else stamp,
            observed_generation=generation,
        )
        for kind, holds, state in ((kind, holds, _TRUTH[holds]) for kind, holds in states.items())
    )
    return status.with_changes(observed_generation=generation, conditions=(*own, *others))


def events_of_change(written: SeriesStatus, final: SeriesStatus, start: CreateRun | None) -> Iterator[Event]:
    """Yield the events of a transition: a run that began, times that were missed, another reason."""
    if start is not None:
        yield Event(type="Normal", reason="RunCreated", message=f"Checkpoint {start.name} was created.")
    before, after = (each.missed.count if each.missed is not None else 0 for each in (written, final))
    if after > before and final.missed is not None:
        said = (
            f"{after - before} scheduled times were missed, the latest at {final.missed.last_time:%Y-%m-%d %H:%M:%SZ}."
        )
        yield Event(type="Warning", reason="RunMissed", message=said)
    yield from _removed(written, final)
    yield from _keep_off(written, final)
    refused = final.refused_save
    if refused is not None and refused != written.refused_save:
        said = f"Pod {refused.pod} reports a save at {refused.url or 'no URL'}, which is not taken. {refused.message}"
        yield Event(type="Warning", reason="SaveRefused", message=said[:_EVENT_LIMIT])
    was, now = _ready(written), _ready(final)
    if now is not None and (was is None or was.reason != now.reason):
        normal = now.reason in _NORMAL
        yield Event(type="Normal" if normal else "Warning", reason=now.reason, message=now.message[:_EVENT_LIMIT])


def _removed(written: SeriesStatus, final: SeriesStatus) -> Iterator[Event]:
    known = {each.name for each in written.retention.removed} if written.retention is not None else set()
    for each in final.retention.removed if final.retention is not None else ():
        if each.name not in known:
            said = f"{each.url} was removed by spec.retention, and Checkpoint {each.name} with it."
            yield Event(type="Normal", reason="CheckpointRemoved", message=said[:_EVENT_LIMIT])


def _keep_off(written: SeriesStatus, final: SeriesStatus) -> Iterator[Event]:
    before, after = (each.retention.keep_off if each.retention is not None else () for each in (written, final))
    for pod in after:
        if pod not in before:
            said = f"The agent in pod {pod} has a keep of its own, which is off: spec.retention removes in its place."
            yield Event(type="Normal", reason="KeepIsOff", message=said[:_EVENT_LIMIT])


def _ready(status: SeriesStatus) -> Condition | None:
    return next((each for each in status.conditions if each.type == "Ready"), None)
