"""What a status says of an attempt's Job that starts, or that waits in a queue."""

from dcp_operator.api.checkpoint.text import counted
from dcp_operator.api.naming import QUEUE_LABEL
from dcp_operator.controllers.checkpoint.inputs import Inputs


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
