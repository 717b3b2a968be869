"""A finished Checkpoint is left alone."""

from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.reporting import message_of


def leave_finished_alone(inputs: Inputs) -> CheckResult | None:
    """Leave a finished Checkpoint as it is: nothing that happens to pods after the result changes the result."""
    if not inputs.status.phase.terminal:
        return None
    return CheckResult(status=inputs.status, message=inputs.message or message_of(inputs.status.conditions))
