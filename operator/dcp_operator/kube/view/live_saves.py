"""Which live Saves of a namespace claim the same URL."""

import logging
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final

from dcp_operator.api.checkpoint.parsing import SpecError
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.controllers.checkpoint.runs import run_id_of
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from dcp_operator.kube.kinds.checkpoint import CHECKPOINT
from dcp_operator.kube.view.cache import Cache

logger = logging.getLogger(__name__)

WOKEN: Final = 100
"""Saves on one URL that are looked at at once when a claim on it ends; only the first of them can go on."""

_Place = tuple[str, str]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class LiveSaves:
    """Who claims which URL. Fed with every body of a Checkpoint before any of them is decided on.

    Args:
        cache: Where the Checkpoints are parsed, and where it is seen whether pods of a Save that is to end still run.
        wake: Called with each Checkpoint whose turn may have come.
        now: The clock.
    """

    cache: Cache = field(default_factory=Cache)
    wake: Callable[[ObjectKey], None] = field(default=lambda _: None)
    now: Callable[[], datetime] = field(default=_utc_now)
    _uids: dict[ObjectKey, str] = field(default_factory=dict)
    _claims: dict[str, UrlClaim] = field(default_factory=dict)
    """By the Checkpoint's uid: pods of one that is gone may still run when another of its name is there."""
    _gone: deque[str] = field(default_factory=deque)
    """Of Checkpoints that are gone while pods of theirs ran."""
    _by_place: dict[_Place, dict[str, UrlClaim]] = field(default_factory=lambda: defaultdict(dict))

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in what a body says about its Checkpoint's claim."""
        uid = body["metadata"]["uid"]
        if self._uids.get(key, uid) != uid:
            self._end(self._uids[key])
        self._uids[key] = uid
        status = body.get("status") or {}
        if "completionTime" in status and status.get("runId", "") == run_id_of(body.get("spec")):
            # Finished: no new claim, and so no need to parse it. A failed one's pods may have yet to stop.
            self._end(uid, at_once=status.get("phase") != Phase.FAILED)
            return
        parsed = self.cache.parsed(key)
        claim = UrlClaim.of(parsed, Status.read(status)) if not isinstance(parsed, SpecError) else None
        if claim is None:
            self._end(uid)
            return
        before = self._claims.get(uid)
        if before is not None and before.run_id == claim.run_id and before.begun:
            claim = replace(claim, begun=True)
        self._set(claim)

    def begin(self, key: ObjectKey) -> None:
        """Note that an attempt was created, which may stand in the status only later."""
        claim = self._claims.get(self._uids.get(key, ""))
        if claim is not None:
            self._set(replace(claim, begun=True))

    def rivals(self, key: ObjectKey, checkpoint: Checkpoint) -> tuple[UrlClaim, ...]:
        """Return the claims of other Saves on the Checkpoint's URL."""
        others = self._by_place.get((key.namespace, checkpoint.place), {})
        return tuple(each for uid, each in list(others.items()) if uid != checkpoint.uid and self._holds(each))

    def drop(self, key: ObjectKey) -> None:
        """Forget a Checkpoint that is gone; its claim stays until its pods are gone as well."""
        uid = self._uids.pop(key, "")
        self._end(uid)
        if uid in self._claims:
            self._gone.append(uid)
        # Nobody may ever ask for a place again whose last Save is gone: with each that goes, two are asked for.
        for each in [self._gone.popleft() for _ in range(min(2, len(self._gone)))]:
            if each in self._claims and self._holds(self._claims[each]):
                self._gone.append(each)

    def _end(self, uid: str, *, at_once: bool = False) -> None:
        """Let a claim go, once nothing may write any more."""
        claim = self._claims.get(uid)
        if claim is None:
            return
        ending = replace(claim, ending=True)
        if at_once or not self._holds(ending):
            self._release(claim)
        else:
            self._set(ending)

    def _holds(self, claim: UrlClaim) -> bool:
        """Return whether a claim keeps others waiting: for ever while it is live, then until its pods have stopped."""
        if not claim.ending:
            return True
        key = CHECKPOINTS.key(claim.namespace, claim.name)
        observed = CHECKPOINT.observe(self.cache.owned(key, claim.uid))
        if observed.still_running(self.now()) is not None:
            return True
        if self._uids.get(key) != claim.uid:
            # Nobody will speak of it again.
            self._release(claim)
        return False

    def _set(self, claim: UrlClaim) -> None:
        before = self._claims.get(claim.uid)
        if before == claim:
            return
        if before is not None and before.place != claim.place:
            self._release(before)
        self._claims[claim.uid] = claim
        self._by_place[claim.namespace, claim.place][claim.uid] = claim
        if before is not None and before.ending != claim.ending:
            self._wake(claim)

    def _release(self, claim: UrlClaim) -> None:
        if self._claims.pop(claim.uid, None) is None:
            return
        shelf = self._by_place[claim.namespace, claim.place]
        shelf.pop(claim.uid, None)
        if not shelf:
            del self._by_place[claim.namespace, claim.place]
        self._wake(claim)

    def _wake(self, claim: UrlClaim) -> None:
        """Have those looked at that may have waited for a claim, in their order."""
        shelf = self._by_place.get((claim.namespace, claim.place), {})
        others = sorted((each for each in shelf.values() if each.uid != claim.uid), key=lambda each: each.order)
        for each in others[:WOKEN]:
            self.wake(CHECKPOINTS.key(each.namespace, each.name))
