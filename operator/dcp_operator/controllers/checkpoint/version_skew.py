"""A status that another version of the operator wrote: a field that can't be read was written all the same.

`Status.read` gives a field that it can't read its default. So a finished Save would be Pending and run again, and the
book of attempts would begin at zero. Where a field can't be read on which such things depend, nothing is done.
"""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Final

from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.decision import Event

_GUARDS: Final = ("phase", "retries", "attempts", "freeFormDigest", "jobRef", "runGeneration", "source", "target")
_RUN: Final = "runId"


def leave_unreadable_alone(
    status: Mapping[str, Any] | None, dropped: Collection[str], run_id: str
) -> CheckpointDecision | None:
    """Return the decision to do nothing if this version can't tell what has been done; None if it can.

    Args:
        status: As it stands in the cluster.
        dropped: Its fields that can't be read.
        run_id: Of the run that the spec asks for.
    """
    guards: list[str] = [name for name in _GUARDS if name in dropped]
    if _RUN in dropped:
        guards.append(_RUN)
    elif (status or {}).get(_RUN, "") != run_id:
        # A new run was asked for: what became of the old run does not matter.
        return None
    if not guards:
        return None
    shown = ", ".join(f"status.{name}" for name in guards)
    message = (
        f"{shown} can't be read by this operator, so nothing is done with this Checkpoint: another version wrote it. "
        "Run that version again, or write another spec.runId to begin anew."
    )
    return CheckpointDecision(
        actions=(),
        status=dict(status or {}),
        events=(Event(type="Warning", reason="StatusUnreadable", message=message),),
    )


def keep_newer_fields(
    decision: CheckpointDecision, status: Mapping[str, Any] | None, dropped: Collection[str], generation: int
) -> CheckpointDecision:
    """Return the decision on a finished Checkpoint with the fields kept that a newer version wrote into its status."""
    before = dict(status or {})
    if dropped:
        return replace(decision, status=before | {"observedGeneration": generation}, events=())
    unknown = {name: value for name, value in before.items() if name not in Status.names()}
    return replace(decision, status=decision.status | unknown)
