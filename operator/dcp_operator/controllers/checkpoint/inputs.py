"""The one thing that every check is given, and the one thing that it answers with."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import Action
from dcp_operator.controllers.checkpoint.latest import NO_SERIES, LatestCheckpoint
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that a check may look at."""

    checkpoint: Checkpoint
    attempts: tuple[Attempt, ...]
    """Attempts of this run."""
    earlier: tuple[Attempt, ...] = ()
    """Attempts of other runs. An earlier run may have had the same runId."""
    leftover: tuple[Pod, ...] = ()
    """Pods whose Job is gone."""
    status: Status
    """The status to go on from: every attempt that has ended is recorded in it."""
    message: str = ""
    """What is said of the attempt that was recorded last; empty if none was recorded just now."""
    now: datetime
    rivals: tuple[UrlClaim, ...] = ()
    """What the other Checkpoints of the namespace claim."""
    latest: LatestCheckpoint = NO_SERIES
    """What is known of the series of `storage.latestOf`."""
    stamp: datetime = field(init=False)
    """The time as a status holds it: in whole seconds."""
    attempt_number: int = field(init=False)
    """Number of the attempt that is under way, or of the next one to start."""
    job_name: str = field(init=False)
    """Name that the Job of that attempt has, or will have."""
    current_attempt: Attempt | None = field(init=False)
    """The attempt under way, if its Job is there."""

    def __post_init__(self) -> None:
        """Work out once what nearly every check asks for."""
        number = self.status.retries.last_ended + 1
        current = next((each for each in self.attempts if each.attempt == number and not each.deleting), None)
        object.__setattr__(self, "stamp", self.now.replace(microsecond=0))
        object.__setattr__(self, "attempt_number", number)
        object.__setattr__(self, "job_name", self.checkpoint.job_name(number))
        object.__setattr__(self, "current_attempt", current)

    def digest_at_start(self, attempt: Attempt) -> str:
        """Return the digest of the free-form fields that the run began with; an attempt of the run carries it."""
        return self.status.free_form_digest or attempt.digest or self.checkpoint.free_form_digest


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """What a check decided. Conditions and columns follow from it."""

    status: Status
    message: str
    """The message of the condition Ready: what a person reads first."""
    actions: tuple[Action, ...] = ()
    wake_at: datetime | None = None
    """When to decide again even if nothing changes."""


def first_after(now: datetime, times: Iterable[datetime]) -> datetime | None:
    """Return the first of the times that is still to come."""
    return min((each for each in times if each > now), default=None)
