"""What changes a store that nobody is to change is refused."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.operations import UrlUse, rules_of
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Failure, Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs


def refuse_read_only(inputs: Inputs) -> CheckResult | None:
    """Refuse what would change a store that nobody is to change. An attempt under way is left to its end."""
    checkpoint = inputs.checkpoint
    if inputs.current_attempt is not None or checkpoint.store is None or not checkpoint.store.read_only:
        return None
    rules = rules_of(checkpoint.spec.operation)
    if rules.url_use is UrlUse.READS and not rules.tries_writing(checkpoint.spec):
        return None
    reason = Reason.STORE_READ_ONLY
    what = f"Store {checkpoint.store.name} is ReadOnly, and {checkpoint.spec.operation.one} changes what stands there."
    message = f"{what} {REASONS[reason].advice}"
    status = inputs.status.finished(Phase.FAILED, reason, inputs.stamp)
    return CheckResult(status=status.with_changes(failure=Failure(reason=reason, message=what)), message=message)
