"""While spec.suspend is true no attempt runs."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.reporting import message_of


def wait_while_suspended(inputs: Inputs) -> CheckResult | None:
    """Stop the attempt, and start none while spec.suspend is true.

    The stopped attempt is not counted against spec.retries. Another attempt follows when spec.suspend is false again.
    """
    if not inputs.checkpoint.spec.suspend:
        return None
    status, attempt = inputs.status, inputs.current_attempt
    message = "spec.suspend is true: no attempt is started."
    if attempt is not None:
        message = f"spec.suspend is true: attempt {attempt.attempt} is stopped and not counted."
        counts = {"last_ended": attempt.attempt, "uncounted": status.retries.uncounted + 1}
        status = status.with_changes(attempts=attempt.attempt, retries=status.retries.model_copy(update=counts))
    elif status.phase is Phase.SUSPENDED:
        message = message_of(status.conditions)
    status = status.with_changes(phase=Phase.SUSPENDED, reason=Reason.SUSPENDED, progress=None)
    return CheckResult(status=status, message=message)
