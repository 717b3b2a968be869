"""Decisions about what can't be carried out: a spec that has no meaning, and objects that the API server refuses."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from dcp_operator.checkpoint.conditions import REASONS, sentence
from dcp_operator.checkpoint.spec import Checkpoint, SpecError
from dcp_operator.checkpoint.status import Failure, Phase, Status
from dcp_operator.decision.actions import Decision
from dcp_operator.decision.clean_up import deletion
from dcp_operator.decision.observed import Observed
from dcp_operator.decision.publish import events, with_conditions
from dcp_operator.decision.situation import finished
from dcp_operator.decision.skew import left_alone
from dcp_worker.contract import Reason

_RETRY: Final = timedelta(seconds=30)


def refuse(
    error: SpecError,
    *,
    generation: int,
    run_id: str,
    observed: Observed,
    status: Mapping[str, Any] | None,
    now: datetime,
) -> Decision:
    """Return the decision for an object whose spec can't be parsed: Failed with InvalidSpec, its attempts stopped.

    They are deleted along with the first write: nothing but their own end would bring another look at the object.
    """
    unread = left_alone(status, run_id)
    if unread is not None:
        return unread
    written = Status.read(status)
    if written.phase.terminal and written.reason is not Reason.INVALID_SPEC:
        return Decision(actions=(), status=written.given(observed_generation=generation).to_dict())
    message = "; ".join(error.problems)[:1024]
    done = finished(written, Phase.FAILED, Reason.INVALID_SPEC, now.replace(microsecond=0)).given(
        run_id=run_id[:63], failure=Failure(reason=Reason.INVALID_SPEC, message=message)
    )
    actions = tuple(deletion(each, "the spec is invalid") for each in observed.attempts if each.active or each.lingers)
    final = with_conditions(done, message, written, generation, now)
    return Decision(actions=actions, status=final.to_dict(), events=tuple(events(written, final)))


def blocked(
    checkpoint: Checkpoint, decision: Decision, status: Mapping[str, Any] | None, refusal: str, now: datetime
) -> Decision:
    """Return the decision to write in place of one whose objects the API server refused to create.

    A quota, an admission policy or an object of the same name that is not ours is for a person to mend: it is said in
    the conditions, tried again every half minute, and given up when the attempt should long have started: startSeconds
    after it was first refused.

    Args:
        checkpoint: The object.
        decision: What could not be carried out.
        status: The status as it stands in the cluster.
        refusal: What the API server said.
        now: The time.
    """
    written, intended = Status.read(status), Status.read(decision.status)
    message = f"Attempt {intended.attempts} can't be created: {sentence(refusal)}"
    # Only here does an attempt that was begun count as Pending: then next_time is when it was first refused.
    again = written.phase is Phase.PENDING and written.attempts == intended.attempts
    since = (again and written.retries.next_time) or now.replace(microsecond=0)
    due = since + timedelta(seconds=checkpoint.spec.timeouts.start_seconds)
    if now >= due:
        failure = Failure(reason=Reason.START_TIMEOUT, message=message[:1024], attempt=intended.attempts)
        done = finished(intended, Phase.FAILED, Reason.START_TIMEOUT, now.replace(microsecond=0))
        message = f"{message} {REASONS[Reason.START_TIMEOUT].advice}"
        final = with_conditions(done.given(failure=failure), message, written, checkpoint.generation, now)
        return Decision(actions=(), status=final.to_dict(), events=tuple(events(written, final)))
    retries = intended.retries.model_copy(update={"next_time": since})
    pending = intended.given(phase=Phase.PENDING, reason=None, retries=retries)
    final = with_conditions(pending, f"{message} It is tried again.", written, checkpoint.generation, now)
    changes = tuple(events(written, final))
    return replace(decision, actions=(), status=final.to_dict(), events=changes, wake_at=min(now + _RETRY, due))
