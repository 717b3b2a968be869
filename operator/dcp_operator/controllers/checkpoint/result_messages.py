"""What a finished Checkpoint says: in one message what became of it, and what to do next."""

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Failure, Retries, Status
from dcp_operator.api.checkpoint.text import counted, human_duration, sentence
from dcp_operator.controllers.checkpoint.retry_rules import MOST_UNCOUNTED


def success_message(reason: Reason, status: Status) -> str:
    """Return the message of a Checkpoint that has Succeeded."""
    info = status.checkpoint or CheckpointInfo()
    if info.removed:
        return f"{reason}. {sentence(info.removed)}{_took(status)}"
    step = f" step {info.step}" if info.step is not None else ""
    size = f": {status.size} in {counted(info.files, 'file')}" if status.size and info.files is not None else ""
    world = f", saved by {counted(info.world_size, 'rank')}" if info.world_size is not None else ""
    entries = f" Entries: {status.entries}." if status.entries else ""
    adopted = f" {_whose(info)}" if reason is Reason.ALREADY_SAVED else ""
    return f"{reason}{step}{size}{world}.{_took(status)}{entries}{adopted}"


def _took(status: Status) -> str:
    return f" It took {human_duration(status.duration_seconds)}." if status.duration_seconds else ""


def _whose(info: CheckpointInfo) -> str:
    when = f" at {info.created_time:%Y-%m-%d %H:%M:%SZ}" if info.created_time is not None else ""
    return f"It was saved by {info.origin or 'an earlier Checkpoint'}{when}, and stays when this Checkpoint is deleted."


def conflict_message(checkpoint: Checkpoint, conflict: Conflict) -> str:
    """Return the message of a Save that met another checkpoint at its URL: whose it is, and the way out."""
    url = checkpoint.spec.storage.url
    who = f", saved by {conflict.origin}" if conflict.origin is not None else ""
    when = f" at {conflict.created_time:%Y-%m-%d %H:%M:%SZ}" if conflict.created_time is not None else ""
    what = conflict.message or f"Checkpoint already exists at {url}{who}{when}."
    return f"{sentence(what)} {_way_out(checkpoint, conflict)}"


def failed_message(failure: Failure, retries: Retries, unseen: Failure | None) -> str:
    """Return the message of a Checkpoint that has Failed.

    Args:
        failure: Why its last attempt failed.
        retries: The book of attempts.
        unseen: Why a probe could not look whether the Save had committed; None if there is no such doubt.
    """
    doubt = ""
    if unseen is not None:
        doubt = (
            f" Whether the save was committed could not be found out ({unseen.message[:512]}): look with `dcp inspect`."
        )
    return f"{sentence(failure.message)}{_last_of(failure, retries)}{doubt} {REASONS[failure.reason].advice}"


def _way_out(checkpoint: Checkpoint, conflict: Conflict) -> str:
    origin, own, member = conflict.origin, checkpoint.origin, checkpoint.spec.operation.module
    if checkpoint.spec.overwrites:
        return "It was committed while this one was being saved. To replace it, change spec.runId to run again."
    if checkpoint.spec.of_save.adopts:
        return "To save anew, write another spec.storage.url, or save.ifExists: Replace, in a new Checkpoint."
    if origin is None or (origin.namespace, origin.name) != (own.namespace, own.name):
        return REASONS[Reason.OVERWRITE_CONFLICT].advice
    if origin.uid == own.uid:
        return (
            f"It is this Checkpoint's own, of run {origin.run_id!r}. To keep both, apply one with another URL; to "
            f"replace it, one with {member}.ifExists: Replace."
        )
    adopt = ", or apply with save.ifExists: Adopt" if checkpoint.spec.operation.traits.found is not None else ""
    return (
        "It is the data of an earlier Checkpoint object of this same name: data outlives its object. If that save is "
        f"the one you want, there is nothing to do{adopt}; to replace it, apply with {member}.ifExists: Replace."
    )


def _last_of(failure: Failure, retries: Retries) -> str:
    if not failure.retriable:
        return ""
    if retries.uncounted > MOST_UNCOUNTED:
        return f" That was the last of {retries.uncounted} attempts that are not counted."
    return f" That was the last of {retries.failed} attempts." if retries.failed > 1 else ""
