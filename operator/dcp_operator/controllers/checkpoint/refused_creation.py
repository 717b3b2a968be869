"""What to decide where the API server refuses to create an attempt's objects: wait, and try again."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.reporting import events_of_change, with_conditions
from dcp_operator.controllers.checkpoint.runs import free_form_fields_changed

_SHORTEST_WAIT: Final = timedelta(seconds=30)
_LONGEST_WAIT: Final = timedelta(seconds=300)
_PART_OF_TIME_REFUSED: Final = 10
"""The next try comes after a tenth of the time since the first refusal: many that wait for a quota must not keep the
API server busy."""


def wait_for_creation(
    checkpoint: Checkpoint,
    decision: CheckpointDecision,
    status: Mapping[str, Any] | None,
    refusal: str,
    now: datetime,
    reason: Reason | None = Reason.FORBIDDEN,
) -> CheckpointDecision:
    """Return the decision to write in place of one whose objects the API server refused to create.

    A quota, an admission policy or an object of the same name that is not ours is for a person to mend. So it is said
    in the conditions and tried again without end, as Kubernetes itself waits at a quota.

    Args:
        checkpoint: The object.
        decision: What could not be carried out.
        status: The status as it stands in the cluster.
        refusal: What the API server said.
        now: The time.
        reason: What kind of refusal it is, where there is a word for it.
    """
    written, intended = Status.read(status), Status.read(decision.status)
    message = f"Attempt {intended.attempts} can't be created: {sentence(refusal)} It is tried again."
    # What the decision says of the attempt that was not created does not hold.
    before = written if written.run_id == intended.run_id else Status()
    first_refused = before.first_refused_time or now.replace(microsecond=0)
    pending = intended.with_changes(
        phase=Phase.PENDING,
        reason=reason,
        attempts=max(before.attempts, intended.retries.last_ended),
        start_time=before.start_time,
        free_form_digest=before.free_form_digest,
        job_ref=before.job_ref,
        first_refused_time=first_refused,
    )
    changed = free_form_fields_changed(checkpoint, pending)
    final = with_conditions(pending, message, written, checkpoint.generation, now, changed=changed)
    return replace(
        decision,
        actions=(),
        status=final.to_dict(),
        events=tuple(events_of_change(written, final)),
        wake_at=now + min(_LONGEST_WAIT, max(_SHORTEST_WAIT, (now - first_refused) / _PART_OF_TIME_REFUSED)),
    )
