"""Two Saves of a namespace never work on one URL at once."""

from datetime import timedelta
from typing import Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.controllers.checkpoint.inputs import CheckResult, Inputs
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim, claim_ahead_of

_LIVE_RECHECK: Final = timedelta(seconds=60)
"""How soon a Save that waits for another one decides again, should it not be woken when the other one ends."""
_ENDING_RECHECK: Final = timedelta(seconds=5)
"""The same where only the pods of the other one have yet to end: nothing wakes this Save when the last pod ends."""


def wait_for_save_on_same_url(inputs: Inputs) -> CheckResult | None:
    """Start no attempt of a Save while another Save of the namespace works on the URL: one of them would be refused.

    It waits, and is never refused here: the other Save may fail, and then it is this Save's turn.
    """
    if inputs.current_attempt is not None or not inputs.rivals:
        return None
    own = UrlClaim.of(inputs.checkpoint, inputs.status)
    rival = claim_ahead_of(own, inputs.rivals) if own is not None else None
    if rival is None:
        return None
    url = inputs.checkpoint.spec.storage.url
    what = f"pods of Checkpoint {rival.name} still run on" if rival.ending else f"Checkpoint {rival.name} is saving to"
    return CheckResult(
        status=inputs.status.with_changes(phase=Phase.PENDING, reason=Reason.URL_IN_USE, progress=None),
        message=f"Attempt {inputs.attempt_number} waits: {what} the same URL ({url}). It starts when that has ended; "
        "then the store says whether the URL is free. To have it go first, suspend or delete the other.",
        wake_at=inputs.now + (_ENDING_RECHECK if rival.ending else _LIVE_RECHECK),
    )
