"""Two attempts of a Checkpoint never run at once."""

from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs, first_after
from dcp_operator.controllers.checkpoint.observed import Observed


def wait_for_previous_attempt(inputs: Inputs) -> CheckResult | None:
    """Start no attempt while an earlier one runs: both would write to the same URL and want the same GPUs."""
    if inputs.current_attempt is not None:
        return None
    observed = Observed(attempts=(*inputs.earlier, *inputs.attempts), leftover=inputs.leftover)
    # A Job of an earlier run with the same runId has the very name that the next Job needs.
    name_taken = next((f"Job {each.job_name}" for each in inputs.earlier if each.job_name == inputs.job_name), None)
    runs = observed.still_running(inputs.now) or name_taken
    if runs is None:
        return None
    status = inputs.status
    return CheckResult(
        status=status.with_changes(
            phase=Phase.PENDING,
            reason=status.failure and status.failure.reason,
            progress=None,
            retries=status.retries.model_copy(update={"next_time": None}),
        ),
        message=f"Attempt {inputs.attempt_number} starts when {runs} has stopped.",
        wake_at=first_after(inputs.now, (each.given_up_at for each in inputs.leftover if each.given_up_at is not None)),
    )
