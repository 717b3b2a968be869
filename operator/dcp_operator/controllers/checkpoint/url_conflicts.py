"""Which of two live Saves of a namespace on one URL goes first. Only the store refuses a Save.

Claims save work: without them both Saves would write all their data, and the store would refuse one at its commit. So a
claim only makes another Save wait. Two Saves that nobody can tell to work on one place do not wait for one another.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status


@dataclass(frozen=True, kw_only=True)
class UrlClaim:
    """The claim of a Save that is not finished, or whose pods have yet to stop."""

    namespace: str
    name: str
    uid: str
    run_id: str = ""
    created: datetime
    place: str
    """`Checkpoint.place`: equal for two Checkpoints exactly when they work on the same place."""
    begun: bool = False
    """An attempt was started. A Save that has begun goes before an older object that is run again."""
    ending: bool = False
    """No attempt will be started: the Checkpoint is suspended, deleted or failed, or its spec changed under way. It
    claims until its pods have stopped."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, status: Status) -> Self | None:
        """Return the claim that a Checkpoint has on its URL, or None where it has none."""
        current = status.run_id == checkpoint.spec.run_id
        if not rules_of(checkpoint.spec.operation).claims_url or (current and status.phase.terminal):
            return None
        return cls(
            namespace=checkpoint.namespace,
            name=checkpoint.name,
            uid=checkpoint.uid,
            run_id=checkpoint.spec.run_id,
            created=checkpoint.created,
            place=checkpoint.place,
            begun=current and status.attempts > 0,
            ending=checkpoint.spec.suspend or checkpoint.deleting or (current and _waits_for_its_spec(status)),
        )

    @property
    def order(self) -> tuple[bool, bool, datetime, str]:
        """Sort key: Saves whose pods have yet to stop, Saves that have begun, the older object, the smaller uid."""
        return (not self.ending, not self.begun, self.created, self.uid)


def _waits_for_its_spec(status: Status) -> bool:
    return status.phase is Phase.PENDING and status.reason is Reason.INVALID_SPEC and status.attempts > 0


def claim_ahead_of(own: UrlClaim, rivals: Iterable[UrlClaim]) -> UrlClaim | None:
    """Return the rival that `own` has to wait for, or None."""
    before = (each for each in rivals if each.uid != own.uid and each.place == own.place and each.order < own.order)
    return min(before, key=lambda each: each.order, default=None)
