"""Which checkpoints of a run are kept, and why; the rest may be removed. Pure: who calls it has looked at the store.

The rules are those of orbax's preservation policies (`orbax.checkpoint.checkpoint_managers.preservation_policy`:
LatestN, EveryNSteps, CustomSteps and their union): a checkpoint is kept if any rule keeps it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import Field, field_validator

from dcp_contract.durations import Duration, duration_text
from dcp_contract.message import Wire

_NO_TIME: Final = datetime.min.replace(tzinfo=UTC)
NO_RULE: Final = "no rule keeps it"
"""Why a checkpoint may be removed."""


class Retention(Wire):
    """Which checkpoints are kept: each that any of these rules keeps. Without a rule all are kept."""

    last: int | None = Field(default=None, ge=1, le=1_000_000, description="Keep the newest ones: how many.")
    every_steps: int | None = Field(
        default=None, ge=1, le=1 << 53, description="Keep each whose step is a multiple of this number, for ever."
    )
    within: Duration | None = Field(
        default=None, description="Keep what was committed within this time, such as 12h or 14d, before now."
    )

    @field_validator("within")
    @classmethod
    def _some_time(cls, within: timedelta | None) -> timedelta | None:
        if within is not None and within <= timedelta(0):
            raise ValueError("it is no time at all; write such as 12h, or leave it out")
        return within

    @property
    def keeps_all(self) -> bool:
        """Whether there is no rule, so that nothing is ever removed."""
        return self.last is None and self.every_steps is None and self.within is None


@dataclass(frozen=True, kw_only=True)
class Retained:
    """One committed checkpoint, as a retention looks at it."""

    url: str
    save_id: str = ""
    """Which save stands there; only that one may be removed."""
    step: int | None = None
    time: datetime | None = None
    """When it was committed, with a time zone; None if nobody knows."""
    pinned: bool = False
    in_use_until: datetime | None = None
    """Somebody asked that it stay until then."""
    readers: Sequence[str] = ()
    """The live Loads that read it, by name."""


@dataclass(frozen=True)
class Verdict:
    """Whether one checkpoint stays, and why."""

    checkpoint: Retained
    kept: bool
    reasons: tuple[str, ...]
    """In words, such as `one of the last 3`."""


def judge(checkpoints: Iterable[Retained], retention: Retention, now: datetime) -> list[Verdict]:
    """Return a verdict for each of the committed checkpoints of one run, the newest first.

    Newest is the one with the highest step, then the one that was committed last. Never removable are the newest one,
    the one that was committed last (a run that went back to an earlier step writes such), what is pinned and what is in
    use.

    Args:
        checkpoints: All that are committed; what is damaged is not among them, else it would count as one of the last.
        retention: The rules.
        now: By the clock that dates the commits, with a time zone.
    """
    ordered = sorted(checkpoints, key=_age, reverse=True)
    latest = max(ordered, key=lambda each: (each.time or _NO_TIME, *_age(each)), default=None)
    verdicts = []
    for place, each in enumerate(ordered):
        reasons = [
            *(["the newest one"] if place == 0 else []),
            *(["the one that was committed last"] if each is latest and place else []),
            *_uses(each, now),
            *_rules(each, place, retention, now),
        ]
        verdicts.append(Verdict(each, kept=bool(reasons), reasons=tuple(reasons or [NO_RULE])))
    return verdicts


def _age(each: Retained) -> tuple[int, datetime, str]:
    return -1 if each.step is None else each.step, each.time or _NO_TIME, each.url


def _uses(each: Retained, now: datetime) -> list[str]:
    found = ["pinned"] if each.pinned else []
    found += [f"the live Load {name} reads it" for name in sorted(each.readers)]
    if each.in_use_until is not None and each.in_use_until > now:
        found.append(f"in use until {each.in_use_until:%Y-%m-%d %H:%M:%S %Z}")
    return found


def _rules(each: Retained, place: int, retention: Retention, now: datetime) -> list[str]:
    if retention.keeps_all:
        return ["there is no rule of retention"]
    found = []
    if retention.last is not None and place < retention.last:
        found.append(f"one of the last {retention.last}" if retention.last > 1 else "the last one")
    if retention.every_steps and each.step is not None and each.step % retention.every_steps == 0:
        found.append(f"step {each.step} is a multiple of {retention.every_steps}")
    if retention.within is not None:
        if each.time is None:
            found.append("nobody knows when it was committed")
        elif now - each.time <= retention.within:
            found.append(f"committed within {duration_text(retention.within)}")
    return found
