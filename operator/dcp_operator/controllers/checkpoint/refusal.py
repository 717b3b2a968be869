"""Decisions about what can't be carried out: a spec that has no meaning, and objects that the API server refuses.

What has begun is never refused: it was accepted once, and a newer rule or another option of the operator must not cost
the work that is under way. It waits for what can carry it on.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.parsing import SpecError
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Failure, Phase, Status
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.controllers.checkpoint.actions import Action, Decision, Event
from dcp_operator.controllers.checkpoint.cleanup import deletion
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.controllers.checkpoint.reporting import events, spec_changed, with_conditions
from dcp_operator.controllers.checkpoint.runs import free_form_fields_changed, has_begun, new_run
from dcp_operator.controllers.checkpoint.version_skew import left_alone

_SOONEST: Final = timedelta(seconds=30)
_LATEST: Final = timedelta(seconds=300)
_SLOWER: Final = 10
"""What has waited this many times as long is tried again: many that wait for a quota must not keep the server busy."""


def refuse(
    error: SpecError,
    *,
    generation: int,
    run_id: str,
    observed: Observed,
    status: Mapping[str, Any] | None,
    now: datetime,
) -> Decision:
    """Return the decision for an object whose spec can't be parsed.

    It has Failed with InvalidSpec, for as long as its spec and the rules are what they are. Where only the operator's
    configuration is in the way, it is Pending. Where it has begun all the same, its attempt is left alone. Where a
    write would take the API server seconds, an event alone tells of it.

    Attempts of an earlier run are deleted along with the first write: nothing but their own end would bring another
    look at the object.
    """
    unread = left_alone(status, run_id)
    if unread is not None:
        return unread
    if not error.writable:
        return _told(error, run_id, observed, status)
    written = Status.read(status)
    over = written.phase.terminal and (written.reason is not Reason.INVALID_SPEC or written.attempts > 0)
    if over and written.run_id == run_id:
        return Decision(actions=(), status=written.with_changes(observed_generation=generation).to_dict())
    message = "; ".join(error.problems)[:1024]
    if has_begun(written, run_id, observed):
        message = f"The spec was accepted once, and this operator can't go on with it: {message}"
        final = written.with_changes(run_id=run_id[:63], reason=Reason.INVALID_SPEC, progress=None)
    else:
        base = written if written.run_id == run_id else new_run(written, run_id)
        final, message = _refused(base, error, message, now)
    # A spec that can't be read is compared with nothing: what was said of it stands.
    final = with_conditions(
        final, message, written, generation, now, changed=has_begun(written, run_id) and spec_changed(written)
    )
    actions = _of_earlier_runs(observed, run_id)
    return Decision(actions=actions, status=final.to_dict(), events=tuple(events(written, final)))


def _told(error: SpecError, run_id: str, observed: Observed, status: Mapping[str, Any] | None) -> Decision:
    """Return the decision to write nothing, and to look again when something is heard of the object.

    Each write would be seconds of the API server's time, and of a worker's that others wait for.
    """
    message = f"{'; '.join(error.problems)}. No status is written for it."
    return Decision(
        actions=_of_earlier_runs(observed, run_id),
        status=dict(status or {}),
        events=(Event(type="Warning", reason=Reason.INVALID_SPEC.value, message=message),),
    )


def _of_earlier_runs(observed: Observed, run_id: str) -> tuple[Action, ...]:
    earlier = (each for each in observed.attempts if each.active and each.run_id != run_id)
    return tuple(deletion(each, "spec.runId asks for a new run") for each in earlier)


def _refused(status: Status, error: SpecError, message: str, now: datetime) -> tuple[Status, str]:
    if error.configured:
        reason = Reason.NOT_ENABLED
        pending = status.with_changes(phase=Phase.PENDING, reason=reason, failure=None, completion_time=None)
        return pending.with_changes(duration_seconds=None), f"{sentence(message)} {REASONS[reason].advice}"
    done = status.finished(Phase.FAILED, Reason.INVALID_SPEC, now.replace(microsecond=0))
    return done.with_changes(failure=Failure(reason=Reason.INVALID_SPEC, message=message)), message


def blocked(
    checkpoint: Checkpoint,
    decision: Decision,
    status: Mapping[str, Any] | None,
    refusal: str,
    now: datetime,
    reason: Reason | None = Reason.FORBIDDEN,
) -> Decision:
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
    # Nothing was begun: what stands of that in the decision is of the attempt that is not there.
    before = written if written.run_id == intended.run_id else Status()
    kept = ("start_time", "free_form_digest", "job_ref")
    pending = intended.with_changes(
        phase=Phase.PENDING,
        reason=reason,
        attempts=max(before.attempts, intended.retries.settled),
        **{name: getattr(before, name) for name in kept},
    )
    another = free_form_fields_changed(checkpoint, pending)
    final = with_conditions(pending, message, written, checkpoint.generation, now, changed=another)
    waited = (now - checkpoint.created) / _SLOWER
    return replace(
        decision,
        actions=(),
        status=final.to_dict(),
        events=tuple(events(written, final)),
        wake_at=now + min(_LATEST, max(_SOONEST, waited)),
    )
