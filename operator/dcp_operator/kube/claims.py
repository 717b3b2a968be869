"""The parsed Checkpoints that are live, and which of them save to the same URL."""

import logging
from collections import defaultdict
from dataclasses import dataclass, field

from dcp_operator.checkpoint.naming import QUEUE_LABEL
from dcp_operator.checkpoint.spec import CLUSTER, Checkpoint, Site, SpecError, parse
from dcp_operator.checkpoint.status import Status
from dcp_operator.decision.rivals import Rival
from dcp_operator.kube.api import Body
from dcp_operator.kube.cache import Key

logger = logging.getLogger(__name__)

_Identity = tuple[object, ...]


@dataclass
class Claims:
    """Who claims which URL. Fed with every body of a Checkpoint before any of them is decided on.

    Args:
        site: What a spec may say here.
    """

    site: Site = CLUSTER
    _parsed: dict[Key, tuple[_Identity, Checkpoint | SpecError]] = field(default_factory=dict)
    _claims: dict[Key, Rival] = field(default_factory=dict)
    _by_url: dict[str, dict[Key, Rival]] = field(default_factory=lambda: defaultdict(dict))

    def parsed(self, key: Key, body: Body) -> Checkpoint | SpecError:
        """Return the parsed Checkpoint, or what is wrong with it; parsed once per change of what `parse` reads."""
        metadata = body["metadata"]
        identity = (
            metadata["uid"],
            metadata.get("generation"),
            metadata.get("deletionTimestamp"),
            (metadata.get("labels") or {}).get(QUEUE_LABEL),
        )
        known = self._parsed.get(key)
        if known is not None and known[0] == identity:
            return known[1]
        found: Checkpoint | SpecError
        try:
            # `slim` leaves the envelope out, which the API server has vouched for.
            found = parse({"metadata": metadata, "spec": body.get("spec")}, site=self.site)
        except SpecError as error:
            found = error
            if error.__cause__ is not None:
                logger.exception("%s: the spec can't be read", key)
        self._parsed[key] = (identity, found)
        return found

    def note(self, key: Key, body: Body) -> None:
        """Take in what a body says about its Checkpoint's claim."""
        self._release(key)
        status = body.get("status") or {}
        if "completionTime" in status and status.get("runId", "") == (body.get("spec") or {}).get("runId", ""):
            # Finished: no claim, and so no need to parse it.
            return
        parsed = self.parsed(key, body)
        if isinstance(parsed, SpecError):
            return
        claim = Rival.of(parsed, Status.read(status))
        if claim is not None:
            self._claims[key] = claim
            self._by_url[claim.url_key][key] = claim

    def rivals(self, key: Key, checkpoint: Checkpoint) -> tuple[Rival, ...]:
        """Return the other live Saves on the Checkpoint's URL."""
        others = self._by_url.get(checkpoint.url_key, {})
        return tuple(rival for other, rival in others.items() if other != key)

    def settle(self, key: Key) -> None:
        """Keep nothing of a finished Checkpoint but its claim, should a new run have given it one."""
        self._parsed.pop(key, None)

    def drop(self, key: Key) -> None:
        """Forget a Checkpoint that is gone."""
        self._parsed.pop(key, None)
        self._release(key)

    def _release(self, key: Key) -> None:
        claim = self._claims.pop(key, None)
        if claim is None:
            return
        shelf = self._by_url[claim.url_key]
        shelf.pop(key, None)
        if not shelf:
            del self._by_url[claim.url_key]
