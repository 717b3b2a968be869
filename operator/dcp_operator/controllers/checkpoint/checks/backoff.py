"""A failed attempt is followed by another after a delay that grows."""

from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs


def wait_for_backoff(inputs: Inputs) -> CheckResult | None:
    """Start no attempt before `retries.nextTime`, which was set when the attempt before was recorded."""
    due = inputs.status.retries.next_time
    if inputs.current_attempt is not None or due is None or inputs.now >= due:
        return None
    failure = inputs.status.failure
    message = f"Attempt {inputs.attempt_number} starts at {due:%H:%M:%SZ}."
    if failure is not None:
        message = f"Attempt {failure.attempt} failed: {sentence(failure.message)} {message}"
    status = inputs.status.with_changes(phase=Phase.PENDING, reason=failure and failure.reason, progress=None)
    return CheckResult(status=status, message=message, wake_at=due)
