"""When an attempt has taken too long: to start, or to run."""

from dataclasses import replace
from datetime import datetime, timedelta

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome, outcome_of_overdue
from dcp_operator.controllers.checkpoint.causes import failure_of
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.waiting_pods import is_kept_from_starting, why_pod_waits, why_pods_are_missing

GRACE = timedelta(seconds=30)
"""At activeSeconds the launcher ends its ranks and reports where they were. It gets this long to do so."""
_HOPELESS = ("not found", "manifest unknown", "denied", "unauthorized", "invalid reference", "no match for platform")


def outcome_by_timeout(checkpoint: Checkpoint, attempt: Attempt, now: datetime) -> AttemptOutcome | None:
    """Return the outcome of an attempt that has run into a timeout; None if it has not."""
    due = next_timeout(checkpoint, attempt)
    if due is None:
        return None
    if attempt.running_since is not None:
        return _ran_too_long(checkpoint, attempt) if now >= due else None
    hopeless = next((pod for pod in attempt.pods if _image_never_comes(pod)), None)
    if hopeless is not None:
        return outcome_of_overdue(
            attempt, failure_of(attempt, Reason.IMAGE_PULL_FAILED, why_pod_waits(hopeless), pod=hopeless)
        )
    return _not_started(checkpoint, attempt) if now >= due else None


def outcome_by_job_deadline(checkpoint: Checkpoint, attempt: Attempt) -> AttemptOutcome | None:
    """Return the outcome of an attempt whose pods waited for a quota for so long that its Job's own deadline struck."""
    chief = attempt.chief.report if attempt.chief is not None else None
    if attempt.job_failure != "DeadlineExceeded" or (chief is not None and chief.result is not None):
        return None
    due = (attempt.started or attempt.created) + timedelta(seconds=checkpoint.spec.timeouts.start_seconds)
    if attempt.pods and not any(pod.created is not None and pod.created > due for pod in attempt.pods):
        return None
    message = (
        f"Job {attempt.job_name} ran into its own deadline, since its pods came late: {why_pods_are_missing(attempt)}."
    )
    failure = failure_of(attempt, Reason.START_TIMEOUT, message).model_copy(update={"retriable": True})
    return AttemptOutcome(reason=Reason.START_TIMEOUT, failure=failure, counted=False, lost=bool(attempt.pods))


def next_timeout(checkpoint: Checkpoint, attempt: Attempt) -> datetime | None:
    """Return when the attempt runs into its timeout. There is none while the Job is queued or a quota allows no pod."""
    timeouts = checkpoint.spec.timeouts
    if attempt.suspended or not attempt.pods:
        return None
    if attempt.running_since is not None:
        return attempt.running_since + timedelta(seconds=timeouts.active_seconds) + GRACE
    # A Job that its queue has just released has no start time until the Job controller has seen the release.
    start = attempt.started or (None if checkpoint.queue and not attempt.probe else attempt.created)
    if start is None:
        return None
    # Time that the pods waited for a quota does not count.
    created = (pod.created for pod in attempt.pods if pod.created is not None)
    return max([start, *created]) + timedelta(seconds=timeouts.start_seconds)


def _image_never_comes(pod: Pod) -> bool:
    if not pod.held_up:
        return False
    if pod.waiting == "InvalidImageName":
        return True
    return pod.waiting == "ImagePullBackOff" and any(word in pod.waiting_message.lower() for word in _HOPELESS)


def _ran_too_long(checkpoint: Checkpoint, attempt: Attempt) -> AttemptOutcome:
    silent = next((pod for pod in attempt.pods if not pod.ended), None)
    seconds = checkpoint.spec.timeouts.active_seconds
    who = f"; pod {silent.name or silent.index} has not ended" if silent is not None else ""
    message = f"Attempt {attempt.attempt} ran longer than timeouts.activeSeconds ({seconds} s){who}."
    return outcome_of_overdue(attempt, failure_of(attempt, Reason.DEADLINE_EXCEEDED, message, pod=silent))


def _not_started(checkpoint: Checkpoint, attempt: Attempt) -> AttemptOutcome:
    seconds = checkpoint.spec.timeouts.start_seconds
    waiting = [pod for pod in attempt.pods if pod.started is None and not pod.ended]
    worst = next((pod for pod in waiting if is_kept_from_starting(pod)), waiting[0] if waiting else None)
    why = why_pod_waits(worst) if worst is not None else f"only {why_pods_are_missing(attempt)}"
    reason = Reason.IMAGE_PULL_FAILED if worst is not None and worst.pull_error else Reason.START_TIMEOUT
    message = f"Not every pod ran within timeouts.startSeconds ({seconds} s): {why}."
    ended = outcome_of_overdue(attempt, failure_of(attempt, reason, message, pod=worst))
    if len(attempt.pods) >= attempt.nodes or ended.failure is None or reason is not Reason.START_TIMEOUT:
        return ended
    # A quota has room for some of the pods. They are let go: two attempts would wait for each other's room. The attempt
    # is tried again.
    return replace(ended, failure=ended.failure.model_copy(update={"retriable": True}), counted=False)
