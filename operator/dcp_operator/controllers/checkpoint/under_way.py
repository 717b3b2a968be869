"""What holds of every attempt under way, whether it is queued, starting or running."""

from datetime import datetime

from dcp_operator.api.checkpoint.status import JobRef, Status
from dcp_operator.api.checkpoint.text import human_ranks
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
