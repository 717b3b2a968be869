"""Which attempts are deleted, and when. The data of a Checkpoint are never deleted."""

from datetime import datetime, timedelta
from typing import Final

from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.controllers.checkpoint.actions import Action, DeleteAttempt
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed
from dcp_operator.controllers.checkpoint.runs import is_of_run

_LINGER: Final = timedelta(seconds=60)
"""How long the pods of a finished Checkpoint may run on after its result."""
_FLUSH: Final = timedelta(seconds=15)
"""How long pods whose ranks have ended may run on while another attempt waits for what they hold, such as GPUs."""


def attempts_to_delete(
    checkpoint: Checkpoint, observed: Observed, written: Status, final: Status, now: datetime
) -> tuple[list[Action], list[datetime]]:
    """Return the attempts to delete now, and when to look again.

    An attempt is deleted for one of three reasons: to stop what still runs, because the time to keep it is over, or
    because a new runId asked for a new run. In the first two cases its outcome must stand in the status as written.
    Pods that only another container keeps running hold their GPUs like any other pod: they go a minute after the
    result, however long the logs of ended pods are kept.
    """
    actions: list[Action] = []
    times: list[datetime] = []
    for attempt in observed.attempts:
        if attempt.deleting:
            continue
        if not is_of_run(attempt, final):
            actions.append(deletion(attempt, "spec.runId asks for a new run"))
            continue
        due = _due(checkpoint, attempt, final, now)
        if due is None:
            continue
        is_written = is_of_run(attempt, written) and _outcome_is_in(written, attempt)
        if due > now or not is_written:
            times.append(max(due, now))
        else:
            runs_on = attempt.active or attempt.lingers
            actions.append(deletion(attempt, "its pods are no longer needed" if runs_on else "its time is over"))
    return actions, times


def _outcome_is_in(status: Status, attempt: Attempt) -> bool:
    return status.phase.terminal or attempt.attempt <= status.retries.last_ended


def _due(checkpoint: Checkpoint, attempt: Attempt, status: Status, now: datetime) -> datetime | None:
    """Return when the attempt may be deleted; None while it is under way, and where it is kept without end."""
    if not _outcome_is_in(status, attempt):
        return None
    end = status.completion_time or now
    if attempt.active:
        return end + _LINGER if status.phase is Phase.SUCCEEDED else now
    seconds = checkpoint.spec.ttl_seconds_after_finished
    ttl = end + timedelta(seconds=seconds) if seconds >= 0 and status.phase.terminal else None
    if not attempt.lingers:
        return ttl
    stop = end + _LINGER if status.phase.terminal else _last_end(attempt, now) + _FLUSH
    return stop if ttl is None else min(stop, ttl)


def _last_end(attempt: Attempt, now: datetime) -> datetime:
    return max((min(pod.finished, now) for pod in attempt.pods if pod.finished is not None), default=attempt.created)


def deletion(attempt: Attempt, why: str) -> DeleteAttempt:
    """Return the action that removes an attempt."""
    return DeleteAttempt(job_name=attempt.job_name, attempt=attempt.attempt, why=why)
