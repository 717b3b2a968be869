"""Whether another attempt follows a failed one, after which delay, and whether it is a probe.

A probe is an attempt of one process. It looks whether a Save whose Report was lost had committed, and saves nothing.
"""

from datetime import timedelta
from typing import Final

from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Failure, Retries
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome
from dcp_operator.controllers.checkpoint.inputs import Inputs
from dcp_operator.controllers.checkpoint.observed import Attempt

_FIRST_DELAY: Final = 5
"""Seconds before the second attempt. The delay doubles with each attempt."""
_LONGEST_DELAY: Final = 300
_PROBES: Final = 3
"""How many probes may follow one lost attempt, if the store or the pod keeps each of them from looking."""
MOST_UNCOUNTED: Final = 100
"""How many attempts may go without counting against spec.retries. One that is always preempted must end as well."""


def another_may_follow(checkpoint: Checkpoint, retries: Retries, failure: Failure) -> bool:
    """Return whether another attempt follows: a probe, or a retry where one can help and one is left."""
    is_left = retries.failed <= checkpoint.spec.retries and retries.uncounted <= MOST_UNCOUNTED
    return retries.probe or (failure.retriable and is_left)


def retries_after(inputs: Inputs, attempt: Attempt, outcome: AttemptOutcome) -> Retries:
    """Return the book of attempts with a failed attempt in it."""
    old = inputs.status.retries
    counted = outcome.counted and not attempt.probe
    never_ran = not attempt.pods and not outcome.lost
    probe = _probe_follows(inputs, attempt, outcome)
    delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(10, old.failed + old.uncounted))
    return Retries(
        last_ended=attempt.attempt,
        failed=old.failed + counted,
        uncounted=old.uncounted + (not counted and not never_ran),
        probe=probe,
        next_time=None if probe and not attempt.probe else inputs.stamp + timedelta(seconds=delay),
    )


def why_probe_saw_nothing(attempt: Attempt, outcome: AttemptOutcome) -> Failure | None:
    """Return why a probe could not look whether a Save is committed; None if it saw that the Save is not."""
    report = attempt.chief.report if attempt.chief is not None else None
    looked = report is not None and not report.failures and not report.terminated
    return outcome.failure if attempt.probe and not looked else None


def _probe_follows(inputs: Inputs, attempt: Attempt, outcome: AttemptOutcome) -> bool:
    """Return whether the next attempt is a probe."""
    if not attempt.probe:
        return outcome.lost and inputs.checkpoint.spec.operation.traits.writes
    unseen, lost = why_probe_saw_nothing(attempt, outcome), inputs.status.failure
    if unseen is None or lost is None or lost.attempt is None:
        return False
    return unseen.retriable and attempt.attempt < lost.attempt + _PROBES
