"""An attempt whose Job is suspended waits for its queue."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.under_way import job_is_queued, with_attempt


def report_queued(inputs: Inputs) -> CheckResult | None:
    """Wait while the Job is suspended: its queue decides when it starts."""
    attempt = inputs.current_attempt
    if attempt is None or not attempt.suspended:
        return None
    status = with_attempt(inputs, attempt).with_changes(phase=Phase.QUEUED, reason=Reason.QUEUED, progress=None)
    return CheckResult(status=status, message=job_is_queued(inputs, attempt.job_name))
