"""What to do for a Checkpoint now: a pure function of its spec, what is observed, its status and the time.

Level-triggered: it never asks what happened last, so it may run twice, late, or after a crash at any point. Attempts
that ended are settled into the status first; then an ordered chain of checks runs, and the first that has something to
say decides.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.conditions import message_of
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.checkpoint.text import sentence
from dcp_operator.controllers.checkpoint.actions import Decision
from dcp_operator.controllers.checkpoint.attempt_checks import (
    changed,
    queued,
    running,
    start,
    starting,
    unreadable,
    url_in_use,
    waiting,
)
from dcp_operator.controllers.checkpoint.cleanup import clean_up
from dcp_operator.controllers.checkpoint.ended_attempts import settle
from dcp_operator.controllers.checkpoint.inputs import Situation, Verdict, differs, is_own, new_run
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed
from dcp_operator.controllers.checkpoint.reporting import events, with_conditions
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim
from dcp_operator.controllers.checkpoint.version_skew import kept, left_alone


def decide(
    checkpoint: Checkpoint,
    observed: Observed,
    status: Mapping[str, Any] | None,
    now: datetime,
    rivals: Sequence[UrlClaim] = (),
) -> Decision:
    """Return the actions to carry out, the status to write, and when to decide again.

    Args:
        checkpoint: The parsed object.
        observed: Its Jobs and pods, of any run.
        status: The status as it stands in the cluster: what is not in it was never written.
        now: The time, with a time zone.
        rivals: What other Saves of the namespace claim, as `UrlClaim.of` makes it.
    """
    unread = left_alone(status, checkpoint.spec.run_id)
    if unread is not None:
        return unread
    written = Status.read(status)
    begun = _begin(checkpoint, written)
    situation = settle(
        Situation(
            checkpoint=checkpoint,
            attempts=tuple(each for each in observed.attempts if is_own(each, begun) and not _in_place_of(each, begun)),
            earlier=tuple(each for each in observed.attempts if not is_own(each, begun)),
            leftover=observed.leftover,
            status=begun,
            now=now,
            rivals=tuple(rivals),
        )
    )
    decision = _decision(situation, _first(situation), written, observed)
    over_before = written.phase.terminal and situation.status.phase is written.phase
    return kept(decision, status, checkpoint.generation) if over_before else decision


def _begin(checkpoint: Checkpoint, written: Status) -> Status:
    """Return the status to go on from: a new run starts afresh, and a mended spec gets another look."""
    if written.run_id != checkpoint.spec.run_id:
        return new_run(written, checkpoint.spec.run_id)
    if written.reason is Reason.INVALID_SPEC and written.attempts == 0:
        return written.with_changes(phase=Phase.PENDING, reason=None, failure=None)
    return written


def _in_place_of(attempt: Attempt, status: Status) -> bool:
    """Return whether somebody has put a Job in place of one that was seen: it has that one's name, and another uid."""
    seen = status.job_ref
    return seen is not None and bool(seen.uid) and seen.name == attempt.job_name and seen.uid != attempt.uid


def _first(situation: Situation) -> Verdict:
    verdicts = (check(situation) for check in CHECKS)
    return next(verdict for verdict in verdicts if verdict is not None)


def over(situation: Situation) -> Verdict | None:
    """Leave a finished Checkpoint as it is: nothing that happens to pods after the result changes it."""
    if not situation.status.phase.terminal:
        return None
    return Verdict(status=situation.status, message=situation.message or message_of(situation.status.conditions))


def suspended(situation: Situation) -> Verdict | None:
    """Stop and stay stopped while spec.suspend is true. A stopped attempt is not counted; a new one follows."""
    if not situation.checkpoint.spec.suspend:
        return None
    status, attempt = situation.status, situation.current
    message = "spec.suspend is true: no attempt is started."
    if attempt is not None:
        message = f"spec.suspend is true: attempt {attempt.attempt} is stopped and not counted."
        retries = status.retries.model_copy(
            update={"settled": attempt.attempt, "uncounted": status.retries.uncounted + 1}
        )
        status = status.with_changes(attempts=attempt.attempt, retries=retries)
    elif status.phase is Phase.SUSPENDED:
        message = message_of(status.conditions)
    status = status.with_changes(phase=Phase.SUSPENDED, reason=Reason.SUSPENDED, progress=None)
    return Verdict(status=status, message=message)


def backing_off(situation: Situation) -> Verdict | None:
    """Wait before the next attempt, longer each time."""
    due = situation.status.retries.next_time
    if situation.current is not None or due is None or situation.now >= due:
        return None
    failure = situation.status.failure
    message = f"Attempt {situation.number} starts at {due:%H:%M:%SZ}."
    if failure is not None:
        message = f"Attempt {failure.attempt} failed: {sentence(failure.message)} {message}"
    status = situation.status.with_changes(phase=Phase.PENDING, reason=failure and failure.reason, progress=None)
    return Verdict(status=status, message=message, wake_at=due)


CHECKS: Final[tuple[Callable[[Situation], Verdict | None], ...]] = (
    over,
    suspended,
    backing_off,
    waiting,
    url_in_use,
    changed,
    unreadable,
    start,
    queued,
    starting,
    running,
)
"""In this order; `running` always has something to say."""


def _decision(situation: Situation, verdict: Verdict, written: Status, observed: Observed) -> Decision:
    checkpoint, now = situation.checkpoint, situation.now
    another = differs(checkpoint, verdict.status)
    final = with_conditions(verdict.status, verdict.message, written, checkpoint.generation, now, changed=another)
    deletions, times = clean_up(checkpoint, observed, written, final, now)
    wake_at = min((each for each in (verdict.wake_at, *times) if each is not None), default=None)
    return Decision(
        actions=(*deletions, *verdict.actions),
        status=final.to_dict(),
        events=tuple(events(written, final)),
        wake_at=wake_at,
    )
