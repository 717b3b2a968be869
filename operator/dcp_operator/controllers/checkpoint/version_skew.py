"""A status that another version of the operator wrote: what can't be read is never taken for what was never written.

A field that is dropped counts as its default: a finished Save would be pending and run again, and the book of attempts
would begin at zero. So where a field that guards work can't be read, nothing is done.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import Decision, Event

_GUARDS: Final = ("phase", "retries", "attempts", "freeFormDigest", "jobRef", "runGeneration")
_RUN: Final = "runId"


def leave_unreadable_alone(status: Mapping[str, Any] | None, run_id: str) -> Decision | None:
    """Return the decision to do nothing where this version can't tell what has been done; None where it can."""
    dropped = Status.unreadable(status)
    guards: list[str] = [name for name in _GUARDS if name in dropped]
    if _RUN in dropped:
        guards.append(_RUN)
    elif (status or {}).get(_RUN, "") != run_id:
        # A new run was asked for: what became of the old one does not matter.
        return None
    if not guards:
        return None
    shown = ", ".join(f"status.{name}" for name in guards)
    message = (
        f"{shown} can't be read by this operator, so nothing is done with this Checkpoint: another version wrote it. "
        "Run that version again, or write another spec.runId to begin anew."
    )
    return Decision(
        actions=(),
        status=dict(status or {}),
        events=(Event(type="Warning", reason="StatusUnreadable", message=message),),
    )


def keep_newer_fields(decision: Decision, status: Mapping[str, Any] | None, generation: int) -> Decision:
    """Return the decision on a finished Checkpoint with what a newer version wrote still in its status."""
    before, dropped = dict(status or {}), Status.unreadable(status)
    if dropped:
        return replace(decision, status=before | {"observedGeneration": generation}, events=())
    unknown = {name: value for name, value in before.items() if name not in Status.names()}
    return replace(decision, status=decision.status | unknown)
