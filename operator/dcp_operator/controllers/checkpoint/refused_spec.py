"""What to decide where a spec can't be parsed, or where no Job can be made of it.

A run that has begun is never refused. Its spec was accepted once, and a newer rule or another option of the operator
must not cost the work that is under way. Such a run waits for an operator that can carry it on.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Failure, Phase, Status
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.checkpoint.actions import Action, CheckpointDecision
from dcp_operator.controllers.checkpoint.cleanup import deletion
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.controllers.checkpoint.reporting import events_of_change, spec_changed, with_conditions
from dcp_operator.controllers.checkpoint.runs import has_begun, new_run
from dcp_operator.controllers.checkpoint.version_skew import leave_unreadable_alone
from dcp_operator.controllers.decision import Event


def refuse_spec(
    error: SpecError,
    *,
    generation: int,
    run_id: str,
    observed: Observed,
    status: Mapping[str, Any] | None,
    now: datetime,
) -> CheckpointDecision:
    """Return the decision for an object whose spec can't be parsed.

    The object has Failed with InvalidSpec, for as long as its spec and the rules stay as they are. If only the
    operator's configuration is in the way, it is Pending. If the run has begun, its attempt is left alone. If a write
    would take the API server seconds, nothing is written, and an event tells of it.

    Attempts of an earlier run are deleted along with the first write: nothing but the end of those attempts would bring
    another look at the object.
    """
    written, dropped = Status.read_in_part(status)
    if dropped and (left_alone := leave_unreadable_alone(status, dropped, run_id)) is not None:
        return left_alone
    if not error.writable:
        return _report_unwritten(error, run_id, observed, status)
    over = written.phase.terminal and (written.reason is not Reason.INVALID_SPEC or written.attempts > 0)
    if over and written.run_id == run_id:
        return CheckpointDecision(actions=(), status=written.with_changes(observed_generation=generation).to_dict())
    status_before = written.with_changes(first_refused_time=None)
    message = "; ".join(error.problems)[:1024]
    if has_begun(written, run_id, observed):
        message = f"The spec was accepted once, and this operator can't go on with it: {message}"
        final = status_before.with_changes(run_id=run_id[:63], reason=Reason.INVALID_SPEC, progress=None)
    else:
        base = status_before if written.run_id == run_id else new_run(written, run_id)
        final, message = _failed_or_waiting(base, error, message, now)
    # A spec that can't be read is not compared with the digest: what was said of the comparison stands.
    final = with_conditions(
        final, message, written, generation, now, changed=has_begun(written, run_id) and spec_changed(written)
    )
    actions = _end_earlier_runs(observed, run_id)
    return CheckpointDecision(actions=actions, status=final.to_dict(), events=tuple(events_of_change(written, final)))


def _report_unwritten(
    error: SpecError, run_id: str, observed: Observed, status: Mapping[str, Any] | None
) -> CheckpointDecision:
    """Return the decision to write nothing, and to decide again when something is heard of the object.

    Each write of such an object takes seconds of the API server, and of a worker of the queue that others wait for.
    """
    message = f"{'; '.join(error.problems)}. No status is written for it."
    return CheckpointDecision(
        actions=_end_earlier_runs(observed, run_id),
        status=dict(status or {}),
        events=(Event(type="Warning", reason=Reason.INVALID_SPEC.value, message=message),),
    )


def _end_earlier_runs(observed: Observed, run_id: str) -> tuple[Action, ...]:
    earlier = (each for each in observed.attempts if each.active and each.run_id != run_id)
    return tuple(deletion(each, "spec.runId asks for a new run") for each in earlier)


def _failed_or_waiting(status: Status, error: SpecError, message: str, now: datetime) -> tuple[Status, str]:
    if error.configured:
        reason = Reason.NOT_ENABLED
        pending = status.with_changes(phase=Phase.PENDING, reason=reason, failure=None, completion_time=None)
        return pending.with_changes(duration_seconds=None), f"{sentence(message)} {REASONS[reason].advice}"
    done = status.finished(Phase.FAILED, Reason.INVALID_SPEC, now.replace(microsecond=0))
    return done.with_changes(failure=Failure(reason=Reason.INVALID_SPEC, message=message)), message
