"""No attempt is made of a spec that is read in part."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs


def wait_while_spec_is_unreadable(inputs: Inputs) -> CheckResult | None:
    """Start no attempt of a spec that can't be read whole: the attempt would do something else than was asked for."""
    if inputs.current_attempt is not None or not inputs.checkpoint.unread:
        return None
    what = "; ".join(inputs.checkpoint.unread)[:1024]
    who = "an operator that can read the spec, as an earlier one could"
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=Reason.INVALID_SPEC, progress=None),
        message=f"Attempt {inputs.attempt_number} waits for {who}: {what}",
    )
