"""What an agent says of a save that has ended, recorded in the status."""

import posixpath
from dataclasses import replace

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.prefixes import as_url
from dcp_contract.reasons import Reason
from dcp_contract.sizes import human_bytes
from dcp_contract.training import EndedSave
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Failure, Phase, Status
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome
from dcp_operator.controllers.checkpoint.foreign_names import without_foreign_names
from dcp_operator.controllers.checkpoint.inputs import CheckResult
from dcp_operator.controllers.checkpoint.result_messages import conflict_message, success_message
from dcp_operator.controllers.target.inputs import TargetInputs


def record_ended(inputs: TargetInputs, ended: EndedSave) -> CheckResult:
    """Return the result of a save that has ended: Succeeded, Conflict or Failed."""
    blocked = round(max(0.0, ended.blocked_seconds), 3)
    status = inputs.status.with_changes(blocked_seconds=blocked)
    outcome = without_foreign_names(_outcome(inputs, ended), inputs.checkpoint)
    return _recorded(replace_status(inputs, status), outcome, shared=_shared(inputs, ended))


def record_failure(inputs: TargetInputs, reason: Reason, message: str) -> CheckResult:
    """Return the result of a Save that has come to its end without the agent's word."""
    return _recorded(inputs, AttemptOutcome(reason=reason, failure=_failure(inputs, reason, message)))


def record_found(inputs: TargetInputs, info: CheckpointInfo) -> CheckResult:
    """Return the result of a Save that turns out to be committed: another process group resumed from it."""
    outcome = AttemptOutcome(
        reason=Reason.SAVED,
        checkpoint=info,
        warnings=("the training ended after the commit and before it reported the save; it resumed from it",),
    )
    return _recorded(inputs, without_foreign_names(outcome, inputs.checkpoint))


def record_standing(inputs: TargetInputs, info: CheckpointInfo) -> CheckResult:
    """Return the result of a Save that need not be made: training has ended no step since that checkpoint."""
    outcome = AttemptOutcome(
        reason=Reason.SAVED,
        checkpoint=info,
        warnings=("training has ended no step since that checkpoint; it is not saved again",),
    )
    return _recorded(inputs, without_foreign_names(outcome, inputs.checkpoint))


def replace_status(inputs: TargetInputs, status: Status) -> TargetInputs:
    """Return the inputs with another status to go on from."""
    return replace(inputs, status=status)


def _outcome(inputs: TargetInputs, ended: EndedSave) -> AttemptOutcome:
    asked, info = inputs.checkpoint.spec.storage.url, ended.checkpoint
    if ended.failure is not None:
        said = ended.failure
        failure = _failure(inputs, said.reason, said.message).model_copy(
            update={"rank": said.rank, "exit_code": said.exit_code, "traceback": said.traceback[-2000:]}
        )
        conflict = Conflict(message=said.message) if said.reason is Reason.OVERWRITE_CONFLICT else None
        return AttemptOutcome(reason=said.reason, failure=failure, conflict=conflict)
    if info is None:
        message = "The training says neither what it saved nor why it did not."
        return AttemptOutcome(reason=Reason.RANK_FAILED, failure=_failure(inputs, Reason.RANK_FAILED, message))
    url = as_url(info.url or ended.url)
    if asked and posixpath.normpath(url) != posixpath.normpath(asked):
        message = f"The training says that it saved to {url}, and was asked for {asked}."
        return AttemptOutcome(reason=Reason.TARGET_REFUSED, failure=_failure(inputs, Reason.TARGET_REFUSED, message))
    info = info.model_copy(update={"url": url, "step": info.step if info.step is not None else ended.step})
    return AttemptOutcome(
        reason=Reason.SAVED, checkpoint=info, bytes_moved=info.bytes or 0, seconds=max(0.0, ended.seconds)
    )


def _failure(inputs: TargetInputs, reason: Reason, message: str) -> Failure:
    pod = inputs.asked.pod if inputs.asked is not None else ""
    return Failure(reason=reason, message=message[:1024], pod=pod, attempt=inputs.status.attempts or None)


def _shared(inputs: TargetInputs, ended: EndedSave) -> str:
    """Return a sentence about whom else the save was made for, if it was."""
    if inputs.checkpoint.reported:
        return " The training made it by itself."
    origin = ended.checkpoint.origin if ended.checkpoint is not None else None
    if origin is None or origin == inputs.checkpoint.origin or origin.namespace != inputs.checkpoint.namespace:
        return ""
    return f" One save answers this Checkpoint and {origin.name}."


def _recorded(inputs: TargetInputs, outcome: AttemptOutcome, shared: str = "") -> CheckResult:
    status, info, failure = inputs.status, outcome.checkpoint, outcome.failure
    if failure is None:
        moved = outcome.bytes_moved > 0 and outcome.seconds > 0
        done = status.finished(Phase.SUCCEEDED, outcome.reason, inputs.stamp).with_changes(
            checkpoint=info,
            conflict_guard=info.conflict_guard[:253] if info is not None else "",
            warnings=outcome.warnings,
            failure=None,
            size=human_bytes(info.bytes) if info is not None and info.bytes is not None else "",
            throughput=f"{human_bytes(outcome.bytes_moved / outcome.seconds)}/s" if moved else "",
        )
        stood = f" Training stood still for {done.blocked_seconds:.2f} s." if done.blocked_seconds is not None else ""
        return CheckResult(status=done, message=f"{success_message(outcome.reason, done)}{stood}{shared}")
    if outcome.conflict is not None:
        message = conflict_message(inputs.checkpoint, outcome.conflict)
        done = status.finished(Phase.CONFLICT, outcome.reason, inputs.stamp).with_changes(
            conflict=outcome.conflict, failure=failure.model_copy(update={"message": message[:1024]})
        )
        return CheckResult(status=done, message=message)
    done = status.finished(Phase.FAILED, outcome.reason, inputs.stamp).with_changes(failure=failure)
    if inputs.checkpoint.reported:
        # Nothing can be asked once more.
        return CheckResult(status=done, message=f"{sentence(failure.message)} The training goes on.")
    again = "" if outcome.reason.startswith("Target") else " To ask once more, change spec.runId."
    return CheckResult(status=done, message=f"{sentence(failure.message)} {REASONS[outcome.reason].advice}{again}")
