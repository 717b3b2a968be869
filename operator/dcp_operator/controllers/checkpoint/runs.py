"""Which run a status is about, and which attempts are of that run. A new `spec.runId` asks for a new run."""

from collections.abc import Mapping

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed


def run_id_of(spec: object) -> str:
    """Return the run that a spec asks for, whatever else stands in the spec."""
    asked = spec.get("runId") if isinstance(spec, Mapping) else None
    return asked if isinstance(asked, str) else ""


def has_begun(status: Status, run_id: str, observed: Observed | None = None) -> bool:
    """Return whether an attempt of the run was made: by the status, or by a live Job that no status tells of yet."""
    if status.run_id == run_id and status.attempts > 0:
        return True
    if observed is None or (status.run_id == run_id and status.phase.terminal):
        return False
    return any(each.active and each.run_id == run_id for each in observed.attempts)


def new_run(written: Status, run_id: str) -> Status:
    """Return the status that another run begins with: all that was made up to now is of an earlier run.

    The place in a store is the object's own: what an earlier run has saved there goes with the object.
    """
    first = max(0, written.observed_generation + 1)
    return Status(run_id=run_id[:63], run_generation=first, conditions=written.conditions, store=written.store)


def status_to_start_from(checkpoint: Checkpoint, written: Status) -> Status:
    """Return the status that a decision starts from: a new run starts afresh, and a mended spec is looked at anew."""
    if written.run_id != checkpoint.spec.run_id:
        return new_run(written, checkpoint.spec.run_id)
    # Only a status that tells of a refused creation has the time of its first refusal.
    status = written.with_changes(first_refused_time=None)
    if status.reason is Reason.INVALID_SPEC and status.attempts == 0:
        return status.with_changes(phase=Phase.PENDING, reason=None, failure=None)
    return status


def is_of_run(attempt: Attempt, status: Status) -> bool:
    """Return whether an attempt is of the run that a status is about.

    A runId may come again. Attempts that were made before the run in between was seen are of the earlier run.
    """
    if attempt.run_id != status.run_id:
        return False
    return attempt.generation is None or attempt.generation >= status.run_generation


def replaces_seen_job(attempt: Attempt, status: Status) -> bool:
    """Return whether somebody has put a Job in place of one that was seen: same name, another uid."""
    seen = status.job_ref
    return seen is not None and bool(seen.uid) and seen.name == attempt.job_name and seen.uid != attempt.uid


def free_form_fields_changed(checkpoint: Checkpoint, status: Status) -> bool:
    """Return whether the fields that the CRD's rules can't hold still differ from those that a status is about."""
    if checkpoint.unread or status.run_id != checkpoint.spec.run_id:
        # The digest was made of the whole spec: it can't be compared with one of which fields were left out.
        return False
    return status.free_form_digest not in {"", checkpoint.free_form_digest}
