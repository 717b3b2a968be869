"""An attempt's outcome, recorded in the status: the result, or the failure and whether another attempt follows."""

from dcp_contract.checkpoint_info import Conflict
from dcp_contract.reasons import Reason
from dcp_contract.sizes import human_bytes
from dcp_operator.api.checkpoint.status import Failure, Phase, Retries, Status
from dcp_operator.api.checkpoint.text import human_entries
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome
from dcp_operator.controllers.checkpoint.inputs import Inputs
from dcp_operator.controllers.checkpoint.observed import Attempt
from dcp_operator.controllers.checkpoint.result_messages import conflict_message, failed_message, success_message
from dcp_operator.controllers.checkpoint.retry_rules import another_may_follow, retries_after, why_probe_saw_nothing


def record_outcome(inputs: Inputs, attempt: Attempt, outcome: AttemptOutcome) -> tuple[Status, str]:
    """Return the status with the outcome of the attempt recorded, and the message that says it."""
    status = inputs.status.with_changes(
        attempts=max(inputs.status.attempts, attempt.attempt),
        start_time=inputs.status.start_time or attempt.created.replace(microsecond=0),
        free_form_digest=inputs.digest_at_start(attempt),
        progress=None,
    )
    if outcome.succeeded:
        return _with_success(inputs, status, attempt, outcome)
    if outcome.conflict is not None and outcome.failure is not None:
        return _with_conflict(inputs, status, outcome.conflict, outcome.failure, attempt)
    return _with_failure(inputs, status, attempt, outcome)


def _with_success(inputs: Inputs, status: Status, attempt: Attempt, outcome: AttemptOutcome) -> tuple[Status, str]:
    info = outcome.checkpoint
    if info is not None and not info.url:
        info = info.model_copy(update={"url": inputs.checkpoint.spec.storage.url})
    moved = outcome.bytes_moved > 0 and outcome.seconds > 0
    done = status.finished(Phase.SUCCEEDED, outcome.reason, inputs.stamp).with_changes(
        checkpoint=info,
        conflict_guard=info.conflict_guard[:253] if info is not None else "",
        warnings=outcome.warnings,
        failure=None,
        failed_ranks=(),
        failed_rank_count=0,
        size=human_bytes(info.bytes) if info is not None and info.bytes is not None else "",
        throughput=f"{human_bytes(outcome.bytes_moved / outcome.seconds)}/s" if moved else "",
        entries=human_entries(info.entries) if info is not None and info.entries is not None else "",
        retries=_without_another(status.retries, attempt),
    )
    return done, success_message(outcome.reason, done)


def _with_conflict(
    inputs: Inputs, status: Status, conflict: Conflict, failure: Failure, attempt: Attempt
) -> tuple[Status, str]:
    """Return the status of a Save that the store refused: terminal, and never tried again."""
    message = conflict_message(inputs.checkpoint, conflict)
    done = status.finished(Phase.CONFLICT, Reason.OVERWRITE_CONFLICT, inputs.stamp).with_changes(
        conflict=conflict,
        failure=failure.model_copy(update={"message": message[:1024], "retriable": False}),
        retries=_without_another(status.retries, attempt),
    )
    return done, message


def _with_failure(inputs: Inputs, status: Status, attempt: Attempt, outcome: AttemptOutcome) -> tuple[Status, str]:
    """Return the status of a failed attempt: another attempt follows, or the Checkpoint has Failed."""
    status = status.with_changes(retries=retries_after(inputs, attempt, outcome))
    if not attempt.probe:
        # A probe only looks for what the attempt before it did: the failure of that attempt stays.
        status = status.with_changes(
            failure=outcome.failure,
            failed_ranks=outcome.failed_ranks,
            failed_rank_count=outcome.failed_rank_count,
            warnings=outcome.warnings,
        )
    failure = status.failure or outcome.failure
    if failure is None or another_may_follow(inputs.checkpoint, status.retries, failure):
        return status, failure.message if failure is not None else ""
    message = failed_message(failure, status.retries, why_probe_saw_nothing(attempt, outcome))
    return status.finished(Phase.FAILED, failure.reason, inputs.stamp), message


def _without_another(retries: Retries, attempt: Attempt) -> Retries:
    return retries.model_copy(update={"last_ended": attempt.attempt, "probe": False, "next_time": None})
