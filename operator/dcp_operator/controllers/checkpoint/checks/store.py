"""No attempt is started while its store is away."""

from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs


def wait_for_store(inputs: Inputs) -> CheckResult | None:
    """Start no attempt while the store is not there, can't be read or is not Available."""
    store = inputs.checkpoint.store
    if inputs.current_attempt is not None or store is None or store.reason is None:
        return None
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=store.reason, progress=None),
        message=f"Attempt {inputs.attempt_number} waits: {store.message} {REASONS[store.reason].advice}",
    )
