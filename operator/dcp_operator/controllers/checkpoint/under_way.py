"""What is said of every attempt under way, whether its Job is new, queued, starting or running."""

from datetime import datetime

from dcp_operator.api.checkpoint.status import JobRef, Status
from dcp_operator.api.checkpoint.text import counted, human_ranks
from dcp_operator.api.naming import QUEUE_LABEL
from dcp_operator.controllers.checkpoint.attempt_outcome import times_outcome_may_change
from dcp_operator.controllers.checkpoint.inputs import Inputs, first_after
from dcp_operator.controllers.checkpoint.observed import Attempt
from dcp_operator.controllers.checkpoint.timeouts import next_timeout


def with_attempt(inputs: Inputs, attempt: Attempt) -> Status:
    """Return the status with what an observed Job proves, even if the write that followed its creation was lost."""
    status = inputs.status
    return status.with_changes(
        attempts=attempt.attempt,
        start_time=status.start_time or attempt.created.replace(microsecond=0),
        completion_time=None,
        duration_seconds=None,
        free_form_digest=inputs.digest_at_start(attempt),
        ranks=human_ranks(inputs.checkpoint.spec.workers),
        job_ref=JobRef(name=attempt.job_name, uid=attempt.uid),
    )


def next_possible_end(inputs: Inputs, attempt: Attempt, *others: datetime | None) -> datetime | None:
    """Return when the attempt may be found to have ended without any news, or one of the other times if earlier."""
    times = (*times_outcome_may_change(attempt), next_timeout(inputs.checkpoint, attempt), *others)
    return first_after(inputs.now, (each for each in times if each is not None))


def job_starts(inputs: Inputs, job_name: str) -> str:
    """Return the message of an attempt whose Job has been created."""
    if inputs.status.retries.probe:
        what = "looks whether the lost attempt had committed"
    else:
        what = f"starts {counted(inputs.checkpoint.spec.workers.num_nodes, 'pod')}"
    return f"Attempt {inputs.attempt_number}: Job {job_name} {what}."


def job_is_queued(inputs: Inputs, job_name: str) -> str:
    """Return the message of an attempt whose Job is suspended."""
    if inputs.checkpoint.queue:
        return f"Job {job_name} waits for the queue {inputs.checkpoint.queue!r} to admit it."
    return (
        f"Job {job_name} is suspended, and the Checkpoint names no queue: put its label {QUEUE_LABEL} back if a queue "
        "is to admit the Job, or set the Job's spec.suspend to false."
    )
