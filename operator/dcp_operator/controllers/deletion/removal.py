"""The Delete that removes what a deleted Checkpoint has saved, as a small frozen value."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.controllers.checkpoint.reporting import message_of
from dcp_operator.controllers.checkpoint.runs import run_id_of


@dataclass(frozen=True, kw_only=True)
class DataRemoval:
    """A Checkpoint with operation Delete that another, deleted Checkpoint controls."""

    name: str
    uid: str
    by_id: bool
    """Whether it names the save: that one was committed. Else it looks whether one was."""
    phase: Phase = Phase.PENDING
    reason: Reason | None = None
    message: str = ""
    ended: datetime | None = None
    """When its result was known; None while it is not finished."""
    warnings: tuple[str, ...] = ()
    deleting: bool = False
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What it does, as `asked_of` says: anybody may have made it."""

    @classmethod
    def of(cls, body: ReadBody) -> Self:
        """Return the removal that a Checkpoint's body shows."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        status = Status.read(body.get("status"))
        failed = status.failure.reason if status.failure is not None else None
        over = status.phase.terminal and status.run_id == run_id_of(spec)
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            by_id="saveId" in (spec.get("delete") or {}),
            phase=status.phase,
            reason=status.reason or failed,
            message=message_of(status.conditions),
            ended=status.completion_time if over else None,
            warnings=status.warnings,
            deleting=bool(metadata.get("deletionTimestamp")),
            asked=asked_of(spec),
        )

    @property
    def done(self) -> bool:
        """Whether nothing is left of what it was to remove, also since another save stands there."""
        return self.ended is not None and (self.phase is Phase.SUCCEEDED or self.reason is Reason.SAVE_MISMATCH)

    @property
    def runs(self) -> bool:
        """Whether an attempt of it is under way, or is about to be."""
        return self.ended is None and self.phase is not Phase.PENDING

    @property
    def failed(self) -> bool:
        """Whether it has ended and removed nothing."""
        return self.ended is not None and not self.done


def asked_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells two Deletes apart: what is removed, and where."""
    return {each: spec.get(each) for each in ("operation", "storage", "delete")}
