"""Two Checkpoints of a namespace that exclude one another never work on one URL at once."""

from datetime import timedelta
from typing import Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.operations import UrlUse
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim, claim_ahead_of

_LIVE_RECHECK: Final = timedelta(seconds=60)
"""How soon a Checkpoint that waits decides again, should it not be woken when the other one ends."""
_ENDING_RECHECK: Final = timedelta(seconds=5)
"""The same where only the pods of the other one have yet to end: nothing wakes this one when the last pod ends."""


def wait_for_url(inputs: Inputs) -> CheckResult | None:
    """Start no attempt while another Checkpoint of the namespace works on the URL that this one would be in the way of.

    It waits, and is never refused here: the other one may fail, and then it is this one's turn.
    """
    if inputs.current_attempt is not None or not inputs.rivals:
        return None
    own = UrlClaim.of(inputs.checkpoint, inputs.status)
    rival = claim_ahead_of(own, inputs.rivals) if own is not None else None
    if own is None or rival is None:
        return None
    place = own.excluded_at(rival)
    spec = inputs.checkpoint.spec
    url = spec.storage.url if place == own.place else spec.source_url or spec.storage.url
    where = f"the same URL ({url})" if place in own.uses else f"a URL below {url}"
    use = rival.uses.get(place or "", rival.use)
    live = f"Checkpoint {rival.name} is {use}"
    what = f"pods of Checkpoint {rival.name} still run on" if rival.ending else live
    then = "; then the store says whether the URL is free" if own.use is use is UrlUse.WRITES else ""
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=Reason.URL_IN_USE, progress=None),
        message=f"Attempt {inputs.attempt_number} waits: {what} {where}. It starts when that has "
        f"ended{then}. To have it go first, suspend or delete the other.",
        wake_at=inputs.now + (_ENDING_RECHECK if rival.ending else _LIVE_RECHECK),
    )
