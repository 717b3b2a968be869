"""Which live Checkpoints of a namespace claim the same URL.

A claim ends in two steps. While its Checkpoint is live it holds the URL. Once no attempt of that will be started any
more, the claim is `ending`: it holds the URL until the pods have stopped, since they may still read or write.
"""

import logging
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.controllers.checkpoint.runs import run_id_of
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim, urls_of
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from dcp_operator.kube.kinds.checkpoint import CHECKPOINT
from dcp_operator.kube.view.cache import Cache

logger = logging.getLogger(__name__)

WOKEN: Final = 100
"""Checkpoints on one URL that are looked at at once when a claim on it ends; of Saves only the first can go on."""

_Place = tuple[str, str]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class LiveClaims:
    """Who claims which URL. It is told of every body of a Checkpoint before any Checkpoint is decided on.

    Args:
        cache: Where the Checkpoints are parsed, and where it is seen whether pods of one that is to end still run.
        wake: Called with each Checkpoint whose turn may have come.
        now: The clock.
    """

    cache: Cache = field(default_factory=Cache)
    wake: Callable[[ObjectKey], None] = field(default=lambda _: None)
    now: Callable[[], datetime] = field(default=_utc_now)
    _uids: dict[ObjectKey, str] = field(default_factory=dict)
    _claims: dict[str, UrlClaim] = field(default_factory=dict)
    """By the Checkpoint's uid, not by its name: pods of a deleted Checkpoint may outlive it, and its name."""
    _gone: deque[str] = field(default_factory=deque)
    """Uids of Checkpoints that were deleted while their pods ran; their claims are still held."""
    _by_place: dict[_Place, dict[str, UrlClaim]] = field(default_factory=lambda: defaultdict(dict))

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in what a body says about the claim of its Checkpoint."""
        uid = body["metadata"]["uid"]
        if self._uids.get(key, uid) != uid:
            self._end(self._uids[key])
        self._uids[key] = uid
        status = body.get("status") or {}
        if "completionTime" in status and status.get("runId", "") == run_id_of(body.get("spec")):
            # A finished Checkpoint makes no new claim, so it need not be parsed. Pods of a failed one may still run.
            self._end(uid, at_once=status.get("phase") != Phase.FAILED)
            return
        parsed = self.cache.served.parsed(key)
        claim = UrlClaim.of(parsed, Status.read(status)) if not isinstance(parsed, SpecError) else None
        if claim is None:
            self._end(uid)
            return
        before = self._claims.get(uid)
        if before is not None and before.run_id == claim.run_id and before.begun:
            claim = replace(claim, begun=True)
        self._set(claim)

    def begin(self, key: ObjectKey) -> None:
        """Note that an attempt was created. The status that says so may be written later."""
        claim = self._claims.get(self._uids.get(key, ""))
        if claim is not None:
            self._set(replace(claim, begun=True))

    def rivals(self, key: ObjectKey, checkpoint: Checkpoint) -> tuple[UrlClaim, ...]:
        """Return the claims of other Checkpoints on the Checkpoint's URL; all of its namespace, of one that sweeps."""
        others: dict[str, UrlClaim] = {}
        urls = (url for url, _ in urls_of(checkpoint))
        for place in filter(None, (checkpoint.place, checkpoint.source_place, *urls)):
            others |= self._by_place.get((key.namespace, place), {})
        if checkpoint.spec.sweeps:
            others |= {uid: each for uid, each in self._claims.items() if each.namespace == key.namespace}
        return tuple(each for uid, each in others.items() if uid != checkpoint.uid and self._holds(each))

    def drop(self, key: ObjectKey) -> None:
        """Forget a Checkpoint that is gone; its claim stays until its pods are gone as well."""
        uid = self._uids.pop(key, "")
        self._end(uid)
        if uid in self._claims:
            self._gone.append(uid)
        # A claim of a deleted Checkpoint is let go when somebody asks for its URL. Maybe nobody ever does: so whenever
        # one goes, two of the claims that are left over are looked at.
        for each in [self._gone.popleft() for _ in range(min(2, len(self._gone)))]:
            if each in self._claims and self._holds(self._claims[each]):
                self._gone.append(each)

    def _end(self, uid: str, *, at_once: bool = False) -> None:
        """End a claim: let it go if no pod of its Checkpoint may still run, else once none does."""
        claim = self._claims.get(uid)
        if claim is None:
            return
        ending = replace(claim, ending=True)
        if at_once or not self._holds(ending):
            self._release(claim)
        else:
            self._set(ending)

    def _holds(self, claim: UrlClaim) -> bool:
        """Return whether a claim keeps others waiting: while its Checkpoint is live, then until its pods stop."""
        if not claim.ending:
            return True
        key = CHECKPOINTS.key(claim.namespace, claim.name)
        observed = CHECKPOINT.observe(self.cache.owned.of(key, claim.uid))
        if observed.still_running(self.now()) is not None:
            return True
        if self._uids.get(key) != claim.uid:
            # The Checkpoint is gone, so no event of it will come that could let the claim go.
            self._release(claim)
        return False

    def _set(self, claim: UrlClaim) -> None:
        before = self._claims.get(claim.uid)
        if before == claim:
            return
        if before is not None and before.uses.keys() != claim.uses.keys():
            self._release(before)
        self._claims[claim.uid] = claim
        for place in claim.uses:
            self._by_place[claim.namespace, place][claim.uid] = claim
        if before is not None and before.ending != claim.ending:
            self._wake(claim)

    def _release(self, claim: UrlClaim) -> None:
        if self._claims.pop(claim.uid, None) is None:
            return
        for place in claim.uses:
            shelf = self._by_place[claim.namespace, place]
            shelf.pop(claim.uid, None)
            if not shelf:
                del self._by_place[claim.namespace, place]
        self._wake(claim)

    def _wake(self, claim: UrlClaim) -> None:
        """Have the Checkpoints looked at that may have waited for a claim, the next in turn first."""
        shelves = (self._by_place.get((claim.namespace, place), {}) for place in claim.uses)
        waiting = {uid: each for shelf in shelves for uid, each in shelf.items() if uid != claim.uid}
        others = sorted(waiting.values(), key=lambda each: each.order)
        for each in others[:WOKEN]:
            self.wake(CHECKPOINTS.key(each.namespace, each.name))
