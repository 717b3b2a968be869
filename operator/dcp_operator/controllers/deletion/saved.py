"""What a Checkpoint may have saved, and so what goes with it: as the fields of a Delete."""

from typing import Final

from dcp_contract.operations import DeleteFields
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint, CheckpointSpec, DeletionPolicy
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.controllers.checkpoint.observed import Observed
from dcp_operator.controllers.target.reported import SAVE_ID

_FIRST_GENERATION: Final = 1


def takes_data_along(spec: CheckpointSpec) -> bool:
    """Return whether what a Checkpoint saves is to be removed when it is deleted."""
    saves = spec.operation.traits.writes and spec.target is None
    return spec.deletion_policy is DeletionPolicy.DELETE and saves


def has_adopted(status: Status) -> bool:
    """Return whether what it found was saved by an earlier object: who has not saved it removes none of it."""
    return status.phase is Phase.SUCCEEDED and status.reason is Reason.ALREADY_SAVED


def policy_of(body: ReadBody | None) -> DeletionPolicy:
    """Return the policy that a body asks for, whatever else stands in it."""
    said = ((body or {}).get("spec") or {}).get("deletionPolicy")
    return DeletionPolicy.DELETE if said == DeletionPolicy.DELETE else DeletionPolicy.RETAIN


def to_remove(checkpoint: Checkpoint, status: Status, observed: Observed) -> DeleteFields | None:
    """Return what has to be removed before a deleted Checkpoint goes; None where there is nothing.

    Its save by the id where the status has it, and no other run of it is under way that may replace it. Else what it
    has saved, by its uid in the manifest: an attempt that was stopped, or of which nothing was heard, may have
    committed.
    """
    if not takes_data_along(checkpoint.spec):
        return None
    runs = any(each.active and each.run_id != status.run_id for each in observed.attempts)
    if has_adopted(status) and not runs:
        return None
    saved = status.checkpoint.save_id if status.checkpoint is not None and status.phase is Phase.SUCCEEDED else ""
    if SAVE_ID.fullmatch(saved) and not runs:
        return DeleteFields(save_id=saved)
    first = status.run_generation <= _FIRST_GENERATION
    if not runs and first and (status.phase is Phase.CONFLICT or not _begun(status, observed)):
        # A conflict is that with somebody else's: its own commit a Save takes for a success.
        return None
    return DeleteFields(saved_by=checkpoint.uid)


def _begun(status: Status, observed: Observed) -> bool:
    return status.attempts > 0 or status.retries.last_ended > 0 or bool(observed.attempts)
