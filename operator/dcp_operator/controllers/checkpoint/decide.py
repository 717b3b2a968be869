"""What to do for a Checkpoint now: a pure function of its spec, what is observed, its status and the time.

Level-triggered: it never asks what happened last, so it may run twice, late, or after a crash at any point. Attempts
that have ended are recorded in the status first. Then an ordered chain of checks runs, and the first check that has
something to say decides.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.checks.backoff import wait_for_backoff
from dcp_operator.controllers.checkpoint.checks.changed_spec import wait_while_spec_differs
from dcp_operator.controllers.checkpoint.checks.finished import leave_finished_alone
from dcp_operator.controllers.checkpoint.checks.latest_of import record_latest
from dcp_operator.controllers.checkpoint.checks.previous_attempt import wait_for_previous_attempt
from dcp_operator.controllers.checkpoint.checks.queued import report_queued
from dcp_operator.controllers.checkpoint.checks.read_only_store import refuse_read_only
from dcp_operator.controllers.checkpoint.checks.running import report_running
from dcp_operator.controllers.checkpoint.checks.start import start_attempt
from dcp_operator.controllers.checkpoint.checks.starting import report_starting
from dcp_operator.controllers.checkpoint.checks.store import wait_for_store
from dcp_operator.controllers.checkpoint.checks.store_place import record_place
from dcp_operator.controllers.checkpoint.checks.suspended import wait_while_suspended
from dcp_operator.controllers.checkpoint.checks.unreadable_spec import wait_while_spec_is_unreadable
from dcp_operator.controllers.checkpoint.checks.url_in_use import wait_for_url
from dcp_operator.controllers.checkpoint.cleanup import attempts_to_delete
from dcp_operator.controllers.checkpoint.ended_attempts import record_ended_attempts
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.latest import NO_SERIES, LatestCheckpoint
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.controllers.checkpoint.reporting import events_of_change, with_conditions
from dcp_operator.controllers.checkpoint.runs import (
    free_form_fields_changed,
    is_of_run,
    replaces_seen_job,
    status_to_start_from,
)
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim
from dcp_operator.controllers.checkpoint.version_skew import keep_newer_fields, leave_unreadable_alone

CHECKS: Final[tuple[Callable[[Inputs], CheckResult | None], ...]] = (
    leave_finished_alone,
    wait_while_suspended,
    refuse_read_only,
    wait_for_backoff,
    wait_for_previous_attempt,
    wait_for_store,
    wait_for_url,
    wait_while_spec_differs,
    wait_while_spec_is_unreadable,
    record_latest,
    record_place,
    start_attempt,
    report_queued,
    report_starting,
    report_running,
)
"""The checks in their order. `report_running` always has something to say."""


def decide(
    checkpoint: Checkpoint,
    observed: Observed,
    status: Mapping[str, Any] | None,
    now: datetime,
    rivals: Sequence[UrlClaim] = (),
    latest: LatestCheckpoint = NO_SERIES,
) -> CheckpointDecision:
    """Return the actions to carry out, the status to write, and when to decide again.

    Args:
        checkpoint: The parsed object.
        observed: Its Jobs and pods, of any run.
        status: The status as it stands in the cluster: what is not in it was never written.
        now: The time, with a time zone.
        rivals: What other Saves of the namespace claim, as `UrlClaim.of` makes it.
        latest: What is known of the series whose latest checkpoint is to be read; the Checkpoint has that URL already.
    """
    written, dropped = Status.read_in_part(status)
    if dropped and (left_alone := leave_unreadable_alone(status, dropped, checkpoint.spec.run_id)) is not None:
        return left_alone
    inputs = record_ended_attempts(_inputs(checkpoint, observed, written, now, rivals, latest))
    result = next(result for check in CHECKS if (result := check(inputs)) is not None)
    decision = _decision(inputs, result, written, observed)
    finished_before = written.phase.terminal and inputs.status.phase is written.phase
    return keep_newer_fields(decision, status, dropped, checkpoint.generation) if finished_before else decision


def _inputs(
    checkpoint: Checkpoint,
    observed: Observed,
    written: Status,
    now: datetime,
    rivals: Sequence[UrlClaim],
    latest: LatestCheckpoint,
) -> Inputs:
    status = status_to_start_from(checkpoint, written)
    own = [each for each in observed.attempts if is_of_run(each, status)]
    return Inputs(
        checkpoint=checkpoint,
        attempts=tuple(each for each in own if not replaces_seen_job(each, status)),
        earlier=tuple(each for each in observed.attempts if not is_of_run(each, status)),
        leftover=observed.leftover,
        status=status,
        now=now,
        rivals=tuple(rivals),
        latest=latest,
    )


def _decision(inputs: Inputs, result: CheckResult, written: Status, observed: Observed) -> CheckpointDecision:
    checkpoint, now = inputs.checkpoint, inputs.now
    changed = free_form_fields_changed(checkpoint, result.status)
    final = with_conditions(result.status, result.message, written, checkpoint.generation, now, changed=changed)
    deletions, times = attempts_to_delete(checkpoint, observed, written, final, now)
    return CheckpointDecision(
        actions=(*deletions, *result.actions),
        status=final.to_dict(),
        events=tuple(events_of_change(written, final)),
        wake_at=min((each for each in (result.wake_at, *times) if each is not None), default=None),
    )
