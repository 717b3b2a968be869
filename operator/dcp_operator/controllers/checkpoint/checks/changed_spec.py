"""All attempts of a run are made of one spec."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.reporting import FREE_FORM_FIELDS
from dcp_operator.controllers.checkpoint.runs import free_form_fields_changed


def wait_while_spec_differs(inputs: Inputs) -> CheckResult | None:
    """Start no further attempt of a spec that changed under way. The attempt under way ends on the spec it began with.

    The API server refuses such a change by a user. The spec can change all the same: a CRD was rolled back and drops an
    option, or a webhook rewrites templates.
    """
    if inputs.current_attempt is not None or not free_form_fields_changed(inputs.checkpoint, inputs.status):
        return None
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=Reason.INVALID_SPEC, progress=None),
        message=f"Attempt {inputs.attempt_number} waits: {FREE_FORM_FIELDS} is not what the first attempt began with. "
        "To run what it says now, write another spec.runId; or change it back.",
    )
