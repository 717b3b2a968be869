"""What to do for a Save with a target now: a pure function, as `checkpoint.decide` is for one with a workload.

It has no actions. The status is the action: `TargetedSaves` tells the agent of the group that stands in it.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status, TargetRef
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.inputs import CheckResult
from dcp_operator.controllers.checkpoint.reporting import events_of_change, message_of, with_conditions
from dcp_operator.controllers.checkpoint.runs import status_to_start_from
from dcp_operator.controllers.checkpoint.version_skew import keep_newer_fields, leave_unreadable_alone
from dcp_operator.controllers.target.choice import choose_group
from dcp_operator.controllers.target.inputs import TargetInputs
from dcp_operator.controllers.target.observed import ObservedTarget
from dcp_operator.controllers.target.outcome import record_ended, record_failure
from dcp_operator.controllers.target.reported import found_report, wait_for_report
from dcp_operator.controllers.target.request import follow_request


def decide_target(
    checkpoint: Checkpoint, observed: ObservedTarget, status: Mapping[str, Any] | None, now: datetime
) -> CheckpointDecision:
    """Return the status to write, and when to decide again.

    Args:
        checkpoint: The parsed object, which has a target.
        observed: The target's pods, and the agents that are connected.
        status: The status as it stands in the cluster.
        now: The time, with a time zone.
    """
    written, dropped = Status.read_in_part(status)
    if dropped and (left_alone := leave_unreadable_alone(status, dropped, checkpoint.spec.run_id)) is not None:
        return left_alone
    inputs = _inputs(checkpoint, observed, written, now)
    result = next(found for check in CHECKS if (found := check(inputs)) is not None)
    final = with_conditions(result.status, result.message, written, checkpoint.generation, now)
    decision = CheckpointDecision(
        actions=(),
        status=final.to_dict(),
        events=tuple(events_of_change(written, final)),
        wake_at=None if final.phase.terminal else result.wake_at,
    )
    finished_before = written.phase.terminal and inputs.status.phase is written.phase
    return keep_newer_fields(decision, status, dropped, checkpoint.generation) if finished_before else decision


def _inputs(checkpoint: Checkpoint, observed: ObservedTarget, written: Status, now: datetime) -> TargetInputs:
    status = status_to_start_from(checkpoint, written)
    if not status.phase.terminal:
        target = status.target or TargetRef(name=str(checkpoint.spec.target)[:253])
        # Time in which it was suspended does not count.
        resumed = status.phase is Phase.SUSPENDED and not checkpoint.spec.suspend
        start = None if resumed else status.start_time
        status = status.with_changes(start_time=start or now.replace(microsecond=0), target=target)
    return TargetInputs(checkpoint=checkpoint, observed=observed, status=status, now=now)


def _finished(inputs: TargetInputs) -> CheckResult | None:
    """Leave a finished Checkpoint as it is."""
    if not inputs.status.phase.terminal:
        return None
    return CheckResult(status=inputs.status, message=message_of(inputs.status.conditions))


def _ended(inputs: TargetInputs) -> CheckResult | None:
    """Record the outcome that the agent reports, before anything else: it is what happened."""
    if inputs.asked is None:
        return None
    agent = inputs.observed.agent_of(inputs.asked.group, inputs.asked.pod_uid)
    ended = agent.ended(inputs.request) if agent is not None else None
    return record_ended(inputs, ended) if ended is not None else None


def _suspended(inputs: TargetInputs) -> CheckResult | None:
    """Ask for nothing while spec.suspend is true. A save that has begun may be committed all the same."""
    if not inputs.checkpoint.spec.suspend:
        return None
    message = "spec.suspend is true: the training is not asked."
    if inputs.asked is not None:
        message = "spec.suspend is true: the request is withdrawn, unless its save has begun."
    status = inputs.status.with_changes(phase=Phase.SUSPENDED, reason=Reason.SUSPENDED, progress=None)
    return CheckResult(status=status, message=message)


def _overdue(inputs: TargetInputs) -> CheckResult | None:
    """End a Save that has taken too long, whatever it waited for."""
    if inputs.now < inputs.deadline:
        return None
    seconds = inputs.checkpoint.spec.timeouts.active_seconds
    before = message_of(inputs.status.conditions)
    message = f"The Save was not committed within timeouts.activeSeconds ({seconds} s). {before}"
    return record_failure(inputs, Reason.DEADLINE_EXCEEDED, message.strip())


def _unreadable(inputs: TargetInputs) -> CheckResult | None:
    """Ask for nothing by a spec that is read in part."""
    if inputs.asked is not None or not inputs.checkpoint.unread:
        return None
    what = "; ".join(inputs.checkpoint.unread)[:1024]
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=Reason.INVALID_SPEC, progress=None),
        message=f"The Save waits for an operator that can read the spec: {what}",
    )


def _asked(inputs: TargetInputs) -> CheckResult | None:
    return follow_request(inputs, inputs.asked) if inputs.asked is not None else None


CHECKS: Final[tuple[Callable[[TargetInputs], CheckResult | None], ...]] = (
    _finished,
    _ended,
    found_report,
    _suspended,
    _overdue,
    _unreadable,
    _asked,
    wait_for_report,
    choose_group,
)
"""The checks in their order. The last one always has something to say."""
