"""The next attempt starts when nothing is in its way."""

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import JobRef, Phase
from dcp_operator.api.checkpoint.text import human_ranks
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.under_way import job_is_queued, job_starts


def start_attempt(inputs: Inputs) -> CheckResult | None:
    """Start the next attempt if its Job is not there. A Job that was created and not yet seen is created again."""
    if inputs.current_attempt is not None:
        return None
    checkpoint, status, number = inputs.checkpoint, inputs.status, inputs.attempt_number
    name, probe = inputs.job_name, status.retries.probe
    # A probe needs next to nothing. In the queue it would wait for the GPUs of others.
    queued = bool(checkpoint.queue) and not probe
    return CheckResult(
        status=status.with_changes(
            phase=Phase.QUEUED if queued else Phase.STARTING,
            reason=Reason.QUEUED if queued else None,
            attempts=number,
            start_time=status.start_time or inputs.stamp,
            completion_time=None,
            duration_seconds=None,
            conflict=None,
            progress=None,
            free_form_digest=checkpoint.free_form_digest,
            ranks=human_ranks(checkpoint.spec.workers),
            job_ref=JobRef(name=name),
        ),
        message=job_is_queued(inputs, name) if queued else job_starts(inputs, name),
        actions=(
            CreateAttempt(job_name=name, attempt=number, task=checkpoint.task(number, probe=probe), suspend=queued),
        ),
    )
