"""The one thing that every check is given, and the one thing that it answers with."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import Action
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.runs import free_form_fields_changed
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
    """What the other Saves of the namespace claim."""

    @property
    def stamp(self) -> datetime:
        """The time as a status holds it: in whole seconds."""
        return self.now.replace(microsecond=0)

    @property
    def attempt_number(self) -> int:
        """Number of the attempt that is under way, or of the next one to start."""
        return self.status.retries.last_ended + 1

    @property
    def current_attempt(self) -> Attempt | None:
        """The attempt under way, if its Job is there."""
        return next((each for each in self.attempts if each.attempt == self.attempt_number and not each.deleting), None)

    @property
    def spec_changed(self) -> bool:
        """Whether the free-form fields of the spec are other ones than those that this run began with."""
        return free_form_fields_changed(self.checkpoint, self.status)

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
