"""Two live Saves of a namespace on one URL: which of them goes first. Whether a Save is refused, the store alone says.

A claim saves work: without it both would write all their data, and one would be refused at the commit. So it only ever
makes a Save wait, and where it can't be told whether two Saves work on one place, they don't wait for one another.
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
    """What two Checkpoints share exactly when they work on the same place: `Checkpoint.place`."""
    begun: bool = False
    """An attempt was started: a rerun of an older object does not push it aside."""
    ending: bool = False
    """No attempt will be started: it is suspended, deleted or failed, or its spec changed under way. It claims until
    its pods have stopped."""

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
        """Sort key: pods that have yet to stop, one that has begun, the older object, the smaller uid."""
        return (not self.ending, not self.begun, self.created, self.uid)


def _waits_for_its_spec(status: Status) -> bool:
    return status.phase is Phase.PENDING and status.reason is Reason.INVALID_SPEC and status.attempts > 0


def claim_ahead_of(own: UrlClaim, rivals: Iterable[UrlClaim]) -> UrlClaim | None:
    """Return the rival that `own` has to wait for, or None."""
    before = (each for each in rivals if each.uid != own.uid and each.place == own.place and each.order < own.order)
    return min(before, key=lambda each: each.order, default=None)
