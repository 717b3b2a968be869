"""Ended attempts, written down in the status: the result, or the failure and whether another attempt follows."""

from dataclasses import replace
from datetime import timedelta
from typing import Final

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Failure, Phase, Retries, Status
from dcp_operator.api.checkpoint.text import counted, human_bytes, human_duration, human_entries, sentence
from dcp_operator.controllers.checkpoint.deadlines import cut_short, timed_out
from dcp_operator.controllers.checkpoint.discretion import discreet
from dcp_operator.controllers.checkpoint.inputs import Inputs
from dcp_operator.controllers.checkpoint.observed import Attempt
from dcp_operator.controllers.checkpoint.outcome import Outcome, failure_of, outcome

_FIRST_DELAY: Final = 5
_LONGEST_DELAY: Final = 300
_PROBES: Final = 3
"""How often it is looked whether a lost attempt had committed, where the store or the pod is in the way."""
_MOST_UNCOUNTED: Final = 100
"""Attempts that don't count against spec.retries, at most: one that is always preempted must come to an end as well."""


def settle(inputs: Inputs) -> Inputs:
    """Return the inputs with every attempt that has ended settled in its status, in their order."""
    vanished = _vanished(inputs)
    if vanished is not None:
        inputs = _settled(inputs, *vanished)
    while not inputs.status.phase.terminal and (attempt := inputs.current_attempt) is not None:
        operation = inputs.checkpoint.spec.operation
        ended = (
            cut_short(inputs.checkpoint, attempt)
            or outcome(attempt, operation, inputs.now)
            or timed_out(inputs.checkpoint, attempt, inputs.now)
        )
        if ended is None:
            break
        inputs = _settled(inputs, attempt, discreet(_own(inputs.checkpoint, ended), inputs.checkpoint))
    return inputs


def _vanished(inputs: Inputs) -> tuple[Attempt, Outcome] | None:
    """Return the attempt whose Job was seen and is gone, and how that ended: it may have committed.

    A Job that was created and never seen has no uid in the status; it is created again, or found.
    """
    status, number = inputs.status, inputs.attempt_number
    name, reference = inputs.checkpoint.job_name(number), status.job_ref
    there = any(each.attempt == number for each in inputs.attempts)
    if status.phase.terminal or there or reference is None or not reference.uid or reference.name != name:
        return None
    attempt = Attempt(
        job_name=name,
        attempt=number,
        created=status.start_time or inputs.stamp,
        run_id=status.run_id,
        probe=status.retries.probe,
    )
    message = f"Job {name} was deleted, and not by the operator, which is not counted as a failed attempt."
    failure = failure_of(attempt, Reason.WORKER_LOST, message)
    return attempt, Outcome(reason=Reason.WORKER_LOST, failure=failure, counted=False, lost=True)


def _own(checkpoint: Checkpoint, ended: Outcome) -> Outcome:
    """Return a Saved for a conflict with this very run: what it met is its own commit."""
    conflict = ended.conflict
    if conflict is None or not checkpoint.origin.made(conflict.origin):
        return ended
    info = ended.checkpoint or CheckpointInfo(
        url=checkpoint.spec.storage.url,
        save_id=conflict.save_id,
        created_time=conflict.created_time,
        origin=conflict.origin,
    )
    return replace(ended, reason=Reason.SAVED, failure=None, conflict=None, checkpoint=info)


def _settled(inputs: Inputs, attempt: Attempt, ended: Outcome) -> Inputs:
    status = inputs.status.with_changes(
        attempts=max(inputs.status.attempts, attempt.attempt),
        start_time=inputs.status.start_time or attempt.created.replace(microsecond=0),
        free_form_digest=inputs.digest_at_start(attempt),
        progress=None,
    )
    if ended.succeeded:
        return _succeeded(inputs, status, attempt, ended)
    if ended.conflict is not None and ended.failure is not None:
        return _conflicted(inputs, status, ended.conflict, ended.failure, attempt)
    retries = _book(inputs, attempt, ended)
    if attempt.probe:
        status = status.with_changes(retries=retries)
    else:
        status = status.with_changes(
            retries=retries,
            failure=ended.failure,
            failed_ranks=ended.failed_ranks,
            failed_rank_count=ended.failed_rank_count,
            warnings=ended.warnings,
        )
    failure = status.failure or ended.failure
    left = retries.failed <= inputs.checkpoint.spec.retries and retries.uncounted <= _MOST_UNCOUNTED
    if failure is None or retries.probe or (failure.retriable and left):
        return replace(inputs, status=status, message=failure.message if failure is not None else "")
    return _gave_up(inputs, status, failure, _unseen(attempt, ended))


def _unseen(attempt: Attempt, ended: Outcome) -> Failure | None:
    """Return why a probe could not look whether a save is committed; None if it saw that it is not."""
    report = attempt.chief.report if attempt.chief is not None else None
    looked = report is not None and not report.failures and not report.terminated
    return ended.failure if attempt.probe and not looked else None


def _probe_follows(inputs: Inputs, attempt: Attempt, ended: Outcome) -> bool:
    """Return whether the next attempt is to look only, whether the Save that was lost with its Report had committed."""
    if not attempt.probe:
        return ended.lost and inputs.checkpoint.spec.operation.traits.writes
    unseen, lost = _unseen(attempt, ended), inputs.status.failure
    if unseen is None or lost is None or lost.attempt is None:
        return False
    return unseen.retriable and attempt.attempt < lost.attempt + _PROBES


def _book(inputs: Inputs, attempt: Attempt, ended: Outcome) -> Retries:
    old = inputs.status.retries
    counted = ended.counted and not attempt.probe
    idle = not attempt.pods and not ended.lost
    probe = _probe_follows(inputs, attempt, ended)
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(10, old.failed + old.uncounted))
    return Retries(
        settled=attempt.attempt,
        failed=old.failed + counted,
        uncounted=old.uncounted + (not counted and not idle),
        probe=probe,
        next_time=None if probe and not attempt.probe else inputs.stamp + timedelta(seconds=delay),
    )


def _succeeded(inputs: Inputs, status: Status, attempt: Attempt, ended: Outcome) -> Inputs:
    info = ended.checkpoint
    if info is not None and not info.url:
        info = info.model_copy(update={"url": inputs.checkpoint.spec.storage.url})
    done = status.finished(Phase.SUCCEEDED, ended.reason, inputs.stamp).with_changes(
        checkpoint=info,
        conflict_guard=info.conflict_guard[:253] if info is not None else "",
        warnings=ended.warnings,
        failure=None,
        failed_ranks=(),
        failed_rank_count=0,
        size=human_bytes(info.bytes) if info is not None and info.bytes is not None else "",
        throughput=_throughput(ended),
        entries=human_entries(info.entries) if info is not None and info.entries is not None else "",
        retries=status.retries.model_copy(update={"settled": attempt.attempt, "probe": False, "next_time": None}),
    )
    return replace(inputs, status=done, message=_success_message(ended.reason, done))


def _throughput(ended: Outcome) -> str:
    moved = ended.bytes_moved > 0 and ended.seconds > 0
    return f"{human_bytes(ended.bytes_moved / ended.seconds)}/s" if moved else ""


def _success_message(reason: Reason, status: Status) -> str:
    info = status.checkpoint or CheckpointInfo()
    step = f" step {info.step}" if info.step is not None else ""
    size = f": {status.size} in {counted(info.files, 'file')}" if status.size and info.files is not None else ""
    world = f", saved by {counted(info.world_size, 'rank')}" if info.world_size is not None else ""
    took = f" It took {human_duration(status.duration_seconds)}." if status.duration_seconds else ""
    entries = f" Entries: {status.entries}." if status.entries else ""
    return f"{reason}{step}{size}{world}.{took}{entries}"


def _conflicted(inputs: Inputs, status: Status, conflict: Conflict, failure: Failure, attempt: Attempt) -> Inputs:
    """Return the inputs of a Save that the store refused: terminal, and never tried again."""
    message = _conflict_message(inputs.checkpoint, conflict)
    done = status.finished(Phase.CONFLICT, Reason.OVERWRITE_CONFLICT, inputs.stamp).with_changes(
        conflict=conflict,
        failure=failure.model_copy(update={"message": message[:1024], "retriable": False}),
        retries=status.retries.model_copy(update={"settled": attempt.attempt, "probe": False, "next_time": None}),
    )
    return replace(inputs, status=done, message=message)


def _conflict_message(checkpoint: Checkpoint, conflict: Conflict) -> str:
    url = checkpoint.spec.storage.url
    who = f", saved by {conflict.origin}" if conflict.origin is not None else ""
    when = f" at {conflict.created_time:%Y-%m-%d %H:%M:%SZ}" if conflict.created_time is not None else ""
    what = conflict.message or f"Checkpoint already exists at {url}{who}{when}."
    return f"{sentence(what)} {_way_out(checkpoint, conflict)}"


def _way_out(checkpoint: Checkpoint, conflict: Conflict) -> str:
    origin, own = conflict.origin, checkpoint.origin
    if checkpoint.spec.storage.overwrite:
        return "It was committed while this one was being saved. To replace it, change spec.runId to run again."
    if origin is None or (origin.namespace, origin.name) != (own.namespace, own.name):
        return REASONS[Reason.OVERWRITE_CONFLICT].advice
    if origin.uid == own.uid:
        return (
            f"It is this Checkpoint's own, of run {origin.run_id!r}. To keep both, apply one with another URL; to "
            "replace it, one with overwrite: true."
        )
    return (
        "It is the data of an earlier Checkpoint object of this same name: data outlives its object. If that save is "
        "the one you want, there is nothing to do; to replace it, apply with overwrite: true."
    )


def _gave_up(inputs: Inputs, status: Status, failure: Failure, unseen: Failure | None) -> Inputs:
    done = status.finished(Phase.FAILED, failure.reason, inputs.stamp)
    doubt = ""
    if unseen is not None:
        doubt = (
            f" Whether the save was committed could not be found out ({unseen.message[:512]}): look with `dcp inspect`."
        )
    message = f"{sentence(failure.message)}{_last_of(failure, status.retries)}{doubt} {REASONS[failure.reason].advice}"
    return replace(inputs, status=done, message=message)


def _last_of(failure: Failure, retries: Retries) -> str:
    if not failure.retriable:
        return ""
    if retries.uncounted > _MOST_UNCOUNTED:
        return f" That was the last of {retries.uncounted} attempts that are not counted."
    return f" That was the last of {retries.failed} attempts." if retries.failed > 1 else ""
