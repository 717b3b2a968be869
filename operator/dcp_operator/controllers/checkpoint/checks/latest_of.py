"""What a run reads of a series stands in the status before an attempt of it is created."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs


def record_latest(inputs: Inputs) -> CheckResult | None:
    """Write down the newest checkpoint of the series, and wait while there is none.

    An attempt that was created before the status told of it would read another checkpoint than the next attempt.
    """
    wanted, status = inputs.checkpoint.spec.storage.latest_of, inputs.status
    if inputs.current_attempt is not None or wanted is None or status.source is not None:
        return None
    source = inputs.latest.source
    if source is not None:
        return CheckResult(
            status=status.with_changes(phase=Phase.PENDING, reason=None, source=source, progress=None),
            message=f"The latest of series {wanted.series} is {source.url}.",
            wake_at=inputs.now,
        )
    reason = Reason.NOTHING_SAVED if inputs.latest.exists else Reason.SERIES_NOT_FOUND
    what = "has no committed checkpoint yet" if inputs.latest.exists else "does not exist"
    return CheckResult(
        status=status.with_changes(phase=Phase.PENDING, reason=reason, progress=None),
        message=f"Attempt {inputs.attempt_number} waits: series {wanted.series} {what}. {REASONS[reason].advice}",
    )
