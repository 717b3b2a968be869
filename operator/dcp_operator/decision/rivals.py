"""Two live Saves on one URL: which of them goes on. The store's own refusal at the commit remains the authority."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from dcp_operator.checkpoint.spec import Checkpoint
from dcp_operator.checkpoint.status import Status
from dcp_worker.contract import Operation


@dataclass(frozen=True, kw_only=True)
class Rival:
    """A Save that is neither finished nor waiting to be resumed before its first attempt."""

    namespace: str
    name: str
    uid: str
    created: datetime
    url_key: str
    begun: bool = False
    """An attempt was started: a rerun of an older object does not push it aside."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, status: Status) -> Self | None:
        """Return the claim that a Checkpoint has on its URL, or None where it has none."""
        current = status.run_id == checkpoint.spec.run_id
        begun = current and status.attempts > 0
        if checkpoint.spec.operation is not Operation.SAVE or checkpoint.deleting:
            return None
        if (current and status.phase.terminal) or (checkpoint.spec.suspend and not begun):
            return None
        return cls(
            namespace=checkpoint.namespace,
            name=checkpoint.name,
            uid=checkpoint.uid,
            created=checkpoint.created,
            url_key=checkpoint.url_key,
            begun=begun,
        )

    @property
    def order(self) -> tuple[bool, datetime, str]:
        """Sort key: one that has begun, then the older object, then the smaller uid."""
        return (not self.begun, self.created, self.uid)


def holder(own: Rival, rivals: Iterable[Rival]) -> Rival | None:
    """Return the rival that keeps `own` from its URL, or None."""
    before = (each for each in rivals if each.uid != own.uid and each.url_key == own.url_key and each.order < own.order)
    return min(before, key=lambda each: each.order, default=None)
