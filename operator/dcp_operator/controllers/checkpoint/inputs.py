"""What `decide`'s checks are given, and what one of them answers."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.controllers.checkpoint.actions import Action
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim


@dataclass(frozen=True, kw_only=True)
class Situation:
    """Everything that a check may look at."""

    checkpoint: Checkpoint
    attempts: tuple[Attempt, ...]
    """Of this run only."""
    earlier: tuple[Attempt, ...] = ()
    """Of other runs, also of an earlier one of the same runId."""
    leftover: tuple[Pod, ...] = ()
    """Of attempts whose Job is gone."""
    status: Status
    """As it will be written: ended attempts are settled in it."""
    message: str = ""
    """What the last settled attempt has to say."""
    now: datetime
    rivals: tuple[UrlClaim, ...] = ()

    @property
    def stamp(self) -> datetime:
        """The time as it stands in a status: whole seconds."""
        return self.now.replace(microsecond=0)

    @property
    def number(self) -> int:
        """The attempt that is under way, or the next one to start."""
        return self.status.retries.settled + 1

    @property
    def current(self) -> Attempt | None:
        """The attempt under way, if its Job is there."""
        return next((each for each in self.attempts if each.attempt == self.number and not each.deleting), None)

    @property
    def changed(self) -> bool:
        """Whether the spec is another by now than the one that this run began with."""
        return differs(self.checkpoint, self.status)

    def digest(self, attempt: Attempt) -> str:
        """Return the digest of what the run began with, of which an attempt of it is the witness."""
        return self.status.free_form_digest or attempt.digest or self.checkpoint.free_form_digest


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What a check decided; conditions and columns follow from it."""

    status: Status
    message: str
    actions: tuple[Action, ...] = ()
    wake_at: datetime | None = None


def new_run(written: Status, run_id: str) -> Status:
    """Return the status that another run begins with: all that was made up to now is of an earlier one."""
    first = max(0, written.observed_generation + 1)
    return Status(run_id=run_id[:63], run_generation=first, conditions=written.conditions)


def is_own(attempt: Attempt, status: Status) -> bool:
    """Return whether an attempt is one of the run that a status is about.

    A runId may come again: what was made before the run in between was seen is of the earlier one.
    """
    if attempt.run_id != status.run_id:
        return False
    return attempt.generation is None or attempt.generation >= status.run_generation


def differs(checkpoint: Checkpoint, status: Status) -> bool:
    """Return whether fields that the CRD's rules can't hold still are others than those of which a status tells."""
    if checkpoint.unread or status.run_id != checkpoint.spec.run_id:
        # What was left out of a spec is in its digest.
        return False
    return status.free_form_digest not in {"", checkpoint.free_form_digest}


def finished(status: Status, phase: Phase, reason: Reason, stamp: datetime) -> Status:
    """Return a status in a terminal phase."""
    end = status.completion_time or stamp
    seconds = int((end - (status.start_time or end)).total_seconds())
    return status.with_changes(phase=phase, reason=reason, completion_time=end, duration_seconds=seconds, progress=None)


def next_of(times: Iterable[datetime], now: datetime) -> datetime | None:
    """Return the first of the times that is still to come."""
    return min((each for each in times if each > now), default=None)
