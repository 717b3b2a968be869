"""Attempts that have ended are found, and recorded in the status in their order."""

from dataclasses import replace

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome, outcome_of
from dcp_operator.controllers.checkpoint.causes import failure_of
from dcp_operator.controllers.checkpoint.foreign_names import without_foreign_names
from dcp_operator.controllers.checkpoint.inputs import Inputs
from dcp_operator.controllers.checkpoint.observed import Attempt
from dcp_operator.controllers.checkpoint.recorded_outcome import record_outcome
from dcp_operator.controllers.checkpoint.timeouts import outcome_by_job_deadline, outcome_by_timeout


def record_ended_attempts(inputs: Inputs) -> Inputs:
    """Return the inputs with every attempt that has ended recorded in the status, and what is said of the last one."""
    ended = _vanished_attempt(inputs) or _ended_attempt(inputs)
    while ended is not None:
        status, message = record_outcome(inputs, *ended)
        inputs = replace(inputs, status=status, message=message)
        ended = _ended_attempt(inputs)
    return inputs


def _ended_attempt(inputs: Inputs) -> tuple[Attempt, AttemptOutcome] | None:
    """Return the current attempt with its outcome if it has ended."""
    attempt, checkpoint = inputs.current_attempt, inputs.checkpoint
    if attempt is None or inputs.status.phase.terminal:
        return None
    outcome = (
        outcome_by_job_deadline(checkpoint, attempt)
        or outcome_of(attempt, checkpoint.spec.operation, inputs.now)
        or outcome_by_timeout(checkpoint, attempt, inputs.now)
    )
    if outcome is None:
        return None
    return attempt, without_foreign_names(_with_own_commit(checkpoint, outcome), checkpoint)


def _vanished_attempt(inputs: Inputs) -> tuple[Attempt, AttemptOutcome] | None:
    """Return the attempt whose Job was seen and is gone, with its outcome: it may have committed.

    A Job that was created and never seen has no uid in the status. It is created again, or found.
    """
    status, number = inputs.status, inputs.attempt_number
    name, seen = inputs.job_name, status.job_ref
    is_there = any(each.attempt == number for each in inputs.attempts)
    if status.phase.terminal or is_there or seen is None or not seen.uid or seen.name != name:
        return None
    attempt = Attempt(
        job_name=name,
        attempt=number,
        created=status.start_time or inputs.stamp,
        run_id=status.run_id,
        probe=status.retries.probe,
    )
    message = f"Job {name} was deleted, and not by the operator, which is not counted as a failed attempt."
    failure = failure_of(attempt, Reason.WORKER_LOST, message)
    return attempt, AttemptOutcome(reason=Reason.WORKER_LOST, failure=failure, counted=False, lost=True)


def _with_own_commit(checkpoint: Checkpoint, outcome: AttemptOutcome) -> AttemptOutcome:
    """Return a success for a conflict with this very run: what the attempt met is the commit of an earlier attempt."""
    conflict = outcome.conflict
    if conflict is None or not checkpoint.origin.made(conflict.origin):
        return outcome
    info = outcome.checkpoint or CheckpointInfo(
        url=checkpoint.spec.storage.url,
        save_id=conflict.save_id,
        created_time=conflict.created_time,
        origin=conflict.origin,
    )
    result = checkpoint.spec.operation.traits.result
    return replace(outcome, reason=result, failure=None, conflict=None, checkpoint=info)
