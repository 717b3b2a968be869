"""Which of two live Checkpoints of a namespace on one URL goes first. Only the store refuses a Save.

Claims save work: without them two Saves would write all their data, and the store would refuse one at its commit; and a
Load would lose what it reads to a Delete. So a claim only makes another Checkpoint wait, if the two exclude one another
(`UrlUse`). Two that nobody can tell to work on one place do not wait for one another.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.operations import UrlUse, rules_of
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.checkpoint.storage_key import inside
from dcp_operator.api.storage_url import protocol, without_store
from dcp_operator.controllers.checkpoint.latest import with_source


@dataclass(frozen=True, kw_only=True)
class UrlClaim:
    """The claim of a Checkpoint that is not finished, or whose pods have yet to stop."""

    namespace: str
    name: str
    uid: str
    run_id: str = ""
    created: datetime
    place: str
    """`Checkpoint.place`: equal for two Checkpoints exactly when they work on the same place."""
    use: UrlUse = UrlUse.WRITES
    source: str = ""
    """`Checkpoint.source_place`: where a Save reads what it starts from, or a Copy what it copies."""
    urls: tuple[tuple[str, UrlUse], ...] = ()
    """What it reads or removes, as `urls_of` says."""
    sweeps: bool = False
    """It works below its place, too: there it waits for what writes and is older than it. Nobody below waits for it."""
    begun: bool = False
    """An attempt was started. What has begun goes before an older object that is run again."""
    ending: bool = False
    """No attempt will be started: the Checkpoint is suspended, deleted or failed, or its spec changed under way. It
    claims until its pods have stopped."""

    @classmethod
    def of(cls, checkpoint: Checkpoint, status: Status) -> Self | None:
        """Return the claim that a Checkpoint has on its URL, or None where it has none."""
        current = status.run_id == checkpoint.spec.run_id
        if checkpoint.spec.target is not None:
            # Its training makes one save after the other, and the store refuses another one's.
            return None
        if current and status.phase.terminal:
            return None
        checkpoint = with_source(checkpoint, status)
        if not checkpoint.spec.storage.url:
            # The latest of a series: the status says which that is before an attempt is created.
            return None
        return cls(
            namespace=checkpoint.namespace,
            name=checkpoint.name,
            uid=checkpoint.uid,
            run_id=checkpoint.spec.run_id,
            created=checkpoint.created,
            place=checkpoint.place,
            use=rules_of(checkpoint.spec.operation).url_use,
            source=checkpoint.source_place,
            urls=urls_of(checkpoint),
            sweeps=checkpoint.spec.sweeps,
            begun=current and status.attempts > 0,
            ending=checkpoint.spec.suspend or checkpoint.deleting or (current and _waits_for_its_spec(status)),
        )

    @property
    def uses(self) -> dict[str, UrlUse]:
        """What it does at each place that it works on."""
        source = {self.source: UrlUse.READS} if self.source else {}
        return {**dict(self.urls), **source, self.place: self.use}

    def excluded_at(self, other: "UrlClaim") -> str | None:
        """Return a place at which the two take turns, or None."""
        shared = ((place, use, other.uses[place]) for place, use in self.uses.items() if place in other.uses)
        below = other.place if self.sweeps and self._sweeps_over(other) else None
        return next((place for place, use, others in shared if use.excludes(others)), below)

    def _sweeps_over(self, other: "UrlClaim") -> bool:
        """Tell whether another may have written below this place for as long as what is removed there is old."""
        return other.use is UrlUse.WRITES and other.created <= self.created and inside(self.place, other.place)

    @property
    def order(self) -> tuple[bool, bool, datetime, str]:
        """Sort key: those whose pods have yet to stop, those that have begun, the older object, the smaller uid."""
        return (not self.ending, not self.begun, self.created, self.uid)


def urls_of(checkpoint: Checkpoint) -> tuple[tuple[str, UrlUse], ...]:
    """Return by URL alone what a Checkpoint reads or removes in a bucket.

    Whoever reads with other credentials, or by another name of the endpoint, loses its data to a Delete all the same. A
    path of a file system is told from others by its volume.
    """
    spec = checkpoint.spec
    own, source = rules_of(spec.operation).url_use, spec.source_url
    used = [(spec.storage.url, own)] if own is not UrlUse.WRITES else []
    used += [(source, UrlUse.READS)] if source else []
    return tuple((without_store(url), use) for url, use in used if url and protocol(url) not in {"file", "memory"})


def _waits_for_its_spec(status: Status) -> bool:
    return status.phase is Phase.PENDING and status.reason is Reason.INVALID_SPEC and status.attempts > 0


def claim_ahead_of(own: UrlClaim, rivals: Iterable[UrlClaim]) -> UrlClaim | None:
    """Return the rival that `own` has to wait for, or None."""
    others = (each for each in rivals if each.uid != own.uid and each.order < own.order)
    before = (each for each in others if own.excluded_at(each) is not None)
    return min(before, key=lambda each: each.order, default=None)
