"""An attempt is running while every pod does; its progress is followed."""

from datetime import datetime, timedelta
from typing import Final

from dcp_operator.api.checkpoint.status import Phase, RunProgress
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.observed import Attempt
from dcp_operator.controllers.checkpoint.under_way import next_possible_end, with_attempt

_PROGRESS_INTERVAL: Final = timedelta(seconds=5)


def report_running(inputs: Inputs) -> CheckResult | None:
    """Follow the progress of a running attempt.

    When a pod failed or is lost, the other pods get a moment to report what they saw.
    """
    attempt = inputs.current_attempt
    if attempt is None:
        return None
    progress, due = _progress_to_write(inputs, attempt)
    return CheckResult(
        status=with_attempt(inputs, attempt).with_changes(phase=Phase.RUNNING, reason=None, progress=progress),
        message=_message(inputs, attempt),
        wake_at=next_possible_end(inputs, attempt, due),
    )


def _message(inputs: Inputs, attempt: Attempt) -> str:
    gone = next((pod for pod in attempt.pods if pod.failed or pod.lost(inputs.now)), None)
    if gone is None:
        return f"Attempt {attempt.attempt}: every pod of Job {attempt.job_name} runs."
    what = f"{gone.name or gone.index} failed" if gone.failed else f"{gone.name} on node {gone.node} is lost"
    return f"Attempt {attempt.attempt}: pod {what}; the others' Reports are awaited."


def _progress_to_write(inputs: Inputs, attempt: Attempt) -> tuple[RunProgress | None, datetime | None]:
    """Return the progress for the status, and when newer progress is to be written, if there is some."""
    written, seen = inputs.status.progress, attempt.progress
    if seen is None:
        return written, None
    fresh = RunProgress(
        stage=seen.stage[:253],
        percent=seen.percent,
        bytes=seen.bytes,
        total_bytes=seen.total_bytes,
        bytes_per_second=round(seen.bytes_per_second),
        last_update_time=inputs.stamp,
    )
    if written is None:
        return fresh, None
    if fresh == written.model_copy(update={"last_update_time": inputs.stamp}):
        return written, None
    due = written.last_update_time + _PROGRESS_INTERVAL
    return (fresh, None) if inputs.now >= due else (written, due)
