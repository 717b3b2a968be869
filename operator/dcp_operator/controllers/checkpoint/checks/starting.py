"""An attempt is starting until every pod runs."""

from datetime import datetime

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.under_way import job_starts, next_possible_end, with_attempt
from dcp_operator.controllers.checkpoint.waiting_pods import (
    PODS_DUE,
    is_kept_from_starting,
    why_pod_waits,
    why_pods_are_missing,
)


def report_starting(inputs: Inputs) -> CheckResult | None:
    """Wait until every pod runs, and say what keeps them from running."""
    attempt = inputs.current_attempt
    if attempt is None or attempt.running_since is not None:
        return None
    due = _pods_due(attempt)
    kept = next((pod for pod in attempt.pods if is_kept_from_starting(pod) and not pod.ended), None)
    phase, reason = Phase.STARTING, None
    if kept is not None:
        reason = _reason(kept)
        message = sentence(f"Attempt {attempt.attempt} waits: {why_pod_waits(kept)}")
    elif due is not None and inputs.now >= due:
        message = f"Attempt {attempt.attempt}: {sentence(why_pods_are_missing(attempt))}"
        if not attempt.pods:
            phase, reason = Phase.PENDING, Reason.FORBIDDEN
    else:
        message = job_starts(inputs, attempt.job_name)
    again = () if due is None else (due, inputs.now + PODS_DUE)
    return CheckResult(
        status=with_attempt(inputs, attempt).with_changes(phase=phase, reason=reason, progress=None),
        message=message,
        wake_at=next_possible_end(inputs, attempt, *again),
    )


def _pods_due(attempt: Attempt) -> datetime | None:
    """Return the time at which the Job controller should have created all pods; None if it has created them."""
    if len(attempt.pods) >= attempt.nodes or attempt.started is None:
        return None
    return attempt.started + PODS_DUE


def _reason(pod: Pod) -> Reason | None:
    if pod.unschedulable:
        return Reason.UNSCHEDULABLE
    return Reason.IMAGE_PULL_FAILED if pod.pull_error else None
