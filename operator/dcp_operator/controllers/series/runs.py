"""The Checkpoints of a series as small frozen values: all that a decision about the series looks at."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, Self

from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_operator.api.bodies import time_of
from dcp_operator.api.checkpoint.operations import UrlUse, rules_of
from dcp_operator.api.checkpoint.status import Phase, ReadSource, Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import (
    DISRUPTION_LABEL,
    IN_USE_ANNOTATION,
    PINNED_ANNOTATION,
    REPORTED_LABEL,
    scheduled_time,
)
from dcp_operator.api.storage_url import normal
from dcp_operator.controllers.checkpoint.reporting import message_of
from dcp_operator.controllers.checkpoint.runs import run_id_of

FOR_EVER: Final = datetime.max.replace(tzinfo=UTC, microsecond=0)
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
REMOVES: Final = next(each for each in Operation if rules_of(each).url_use is UrlUse.REMOVES)
"""What a retention has done."""
REMEMBERED: Final = timedelta(minutes=30)
"""So long after its end the Save before a disruption counts for the pod whose eviction began it."""
_WRITING: Final = {each.value for each in Operation if each.traits.writes}


@dataclass(frozen=True, kw_only=True)
class SeriesRun:
    """One Checkpoint that belongs to a series."""

    name: str
    uid: str
    scheduled: datetime | None = None
    """The time that began it, as its name says; None where no schedule did."""
    created: datetime | None = None
    reports: str = ""
    """The save that a training made by itself and that it tells of."""
    before_disruption: bool = False
    """It was made since a pod of the training was to be evicted."""
    operation: str = ""
    phase: Phase = Phase.PENDING
    begun: bool = False
    """Whether an attempt was started."""
    reason: str = ""
    message: str = ""
    """Of a run that failed: what it says of that."""
    ended: datetime | None = None
    """When its result was known; None while it is not finished."""
    committed_time: datetime | None = None
    """When its checkpoint was committed, where a training says so: what it says may be heard long after that."""
    deleting: bool = False
    url: str = ""
    step: int | None = None
    save_id: str = ""
    storage: ReadBody = field(default_factory=dict)
    """Of its spec: with which options and credentials it was saved."""
    pinned: bool = False
    in_use_until: datetime | None = None
    removes: tuple[str, str] | None = None
    """URL and save id, where it is the Delete of a retention."""

    @classmethod
    def of(cls, body: ReadBody, series: str) -> Self:
        """Return the run that a Checkpoint's body shows."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        status = Status.read(body.get("status"))
        over = status.phase.terminal and status.run_id == run_id_of(spec)
        failed = over and status.phase is not Phase.SUCCEEDED
        found, storage = status.checkpoint, spec.get("storage") or {}
        scheduled, annotations = scheduled_time(series, metadata["name"]), metadata.get("annotations") or {}
        told = (metadata.get("labels") or {}).get(REPORTED_LABEL, "") if scheduled is None else ""
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            scheduled=scheduled,
            created=_time(metadata.get("creationTimestamp")),
            reports=str(told) if spec.get("target") else "",
            before_disruption=(metadata.get("labels") or {}).get(DISRUPTION_LABEL) == "true",
            operation=str(spec.get("operation", "")),
            phase=status.phase if over else Phase.PENDING,
            begun=status.attempts > 0 and status.run_id == run_id_of(spec),
            reason=status.reason.value if over and status.reason is not None else "",
            message=message_of(status.conditions) if failed else "",
            ended=status.completion_time if over else None,
            committed_time=_committed_time(status) if over and spec.get("target") else None,
            deleting=bool(metadata.get("deletionTimestamp")),
            url=(found.url if found is not None else "") or str(storage.get("url", "")),
            step=found.step if over and found is not None else None,
            save_id=found.save_id if over and found is not None else "",
            storage=storage if over else {},
            pinned=annotations.get(PINNED_ANNOTATION, "false").strip().lower() != "false",
            in_use_until=_time(annotations.get(IN_USE_ANNOTATION)),
            removes=_removes(spec, scheduled),
        )

    @property
    def made(self) -> bool:
        """Whether the series made it: for a time that was due, for a save of the training, or before a disruption."""
        return self.scheduled is not None or bool(self.reports) or self.before_disruption

    def is_remembered(self, now: datetime) -> bool:
        """Return whether evictions are still let through since it has ended: its object tells so."""
        return self.before_disruption and self.ended is not None and now < self.ended + REMEMBERED

    @property
    def finished(self) -> bool:
        """Whether its result is known."""
        return self.ended is not None

    @property
    def succeeded(self) -> bool:
        """Whether it has done what it was to do."""
        return self.finished and self.phase is Phase.SUCCEEDED

    @property
    def committed(self) -> bool:
        """Whether it has saved a checkpoint."""
        return self.succeeded and self.operation in _WRITING

    @property
    def adopted(self) -> bool:
        """Whether it found its checkpoint saved by an earlier object: a retention has no say about that."""
        return self.reason == Reason.ALREADY_SAVED

    @property
    def committed_at(self) -> datetime:
        """When its checkpoint was committed, as far as it is known."""
        return self.committed_time or self.ended or _NEVER

    @property
    def saved(self) -> tuple[str, str]:
        """Where it saved, without what may be spelt in two ways, and which save that is."""
        return normal(self.url), self.save_id

    @property
    def condemns(self) -> tuple[str, str] | None:
        """The same of what it removes; None where it is no Delete of a retention."""
        return (normal(self.removes[0]), self.removes[1]) if self.removes is not None else None

    @property
    def source(self) -> ReadSource:
        """Return what a Checkpoint that reads it has to know of it; the name of the series is its own to say."""
        return ReadSource(
            series="",
            name=self.name,
            url=self.url,
            save_id=self.save_id,
            step=self.step,
            options=dict(self.storage.get("options") or {}),
            credentials_secret=_name(self.storage.get("credentialsSecretRef")),
            ca_secret=_name(self.storage.get("caSecretRef")),
            service_account=str(self.storage.get("serviceAccountName", "")),
        )


@dataclass(frozen=True, kw_only=True)
class ReportedSave:
    """A save that a training made by itself, as its agent lists it."""

    pod: str
    save: str
    """Which one it is, as a label has it."""
    url: str = ""
    step: int | None = None
    save_id: str | None = None
    """Of what was committed; None if the save failed."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """All Checkpoints of a series that exist."""

    all: tuple[SeriesRun, ...] = ()
    """Its runs."""
    removals: tuple[SeriesRun, ...] = ()
    """The Deletes of its retention."""
    readers: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By URL of a run, the live Checkpoints of the namespace that read what it has saved."""
    others: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """By `saved` of a run, a Checkpoint of the namespace that is none of the series and has saved the same."""
    heard: tuple[ReportedSave, ...] = ()
    """The saves that agents in the target's pods list now: they made them by themselves."""
    keepers: tuple[str, ...] = ()
    """The pods of agents that have a `keep` of their own, which is off while the series has a retention."""
    served: bool = True
    """Whether this operator has a channel to trainings."""

    @classmethod
    def of(
        cls,
        found: Iterable[SeriesRun],
        readers: Mapping[str, tuple[str, ...]] | None = None,
        others: Mapping[tuple[str, str], str] | None = None,
    ) -> Self:
        """Return the Checkpoints of a series, the runs apart from the removals."""
        known = list(found)
        return cls(
            all=tuple(each for each in known if each.removes is None),
            removals=tuple(each for each in known if each.removes is not None),
            readers=readers or {},
            others=others or {},
        )

    @property
    def active(self) -> list[SeriesRun]:
        """Those that are not finished and not being deleted, the newest first; what tells of a save never runs."""
        return _newest_first(each for each in self.all if not (each.finished or each.deleting or each.reports))

    @property
    def reports(self) -> list[SeriesRun]:
        """Those that tell of a save that the training made by itself."""
        return [each for each in self.all if each.reports]

    @property
    def succeeded(self) -> list[SeriesRun]:
        """Those that succeeded, the one that ended last first."""
        return _last_ended_first(each for each in self.all if each.succeeded)

    @property
    def failed(self) -> list[SeriesRun]:
        """Those that failed, the one that ended last first."""
        return _last_ended_first(each for each in self.all if each.finished and not each.succeeded)

    @property
    def standing(self) -> list[SeriesRun]:
        """Those whose checkpoint stands at its URL and is not about to be removed, the one committed last first."""
        return self.standing_but_for(self.removals)

    def standing_but_for(self, removals: Iterable[SeriesRun]) -> list[SeriesRun]:
        """Return those whose checkpoint stands where these removals alone have begun, the one committed last first."""
        condemned = {each.condemns for each in removals}
        found = (each for each in self.all if each.committed and not each.deleting and each.saved not in condemned)
        return sorted(found, key=_age, reverse=True)

    @property
    def latest(self) -> SeriesRun | None:
        """The one that committed last, whose checkpoint is the newest."""
        return next(iter(self.standing), None)

    @property
    def times(self) -> list[datetime]:
        """The scheduled times that have begun one."""
        return [each.scheduled for each in self.all if each.scheduled is not None]


def _age(run: SeriesRun) -> tuple[datetime, int, str]:
    """Return what a later commit has more of: of several that are told of in one second the step says which it is."""
    return run.committed_at, -1 if run.step is None else run.step, run.name


def _committed_time(status: Status) -> datetime | None:
    """Return when a training says that it committed; nothing was committed after its result was known."""
    said, ended = status.checkpoint.created_time if status.checkpoint is not None else None, status.completion_time
    return min(said, ended) if said is not None and said.tzinfo is not None and ended is not None else None


def _removes(spec: ReadBody, scheduled: datetime | None) -> tuple[str, str] | None:
    """Return what a Delete removes that no schedule has begun."""
    if scheduled is not None or spec.get("operation") != REMOVES.value:
        return None
    url = (spec.get("storage") or {}).get("url", "")
    return str(url), str((spec.get(REMOVES.module) or {}).get("saveId", ""))


def _time(text: object) -> datetime | None:
    """Return the time of an annotation; the end of times for one that can't be read: whoever wrote it meant to keep."""
    if text is None:
        return None
    try:
        found = time_of(str(text))
    except ValueError:
        return FOR_EVER
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _name(reference: object) -> str:
    return str(reference.get("name", "")) if isinstance(reference, Mapping) else ""


def _newest_first(runs: Iterable[SeriesRun]) -> list[SeriesRun]:
    return sorted(runs, key=lambda each: each.name, reverse=True)


def _last_ended_first(runs: Iterable[SeriesRun]) -> list[SeriesRun]:
    # Of what ended in one second the higher step is the later one: a name has its digits, and 9 comes after 10 there.
    ordered = (((each.ended, -1 if each.step is None else each.step, each.name), each) for each in runs)
    return [each for _, each in sorted(ordered, key=lambda pair: pair[0], reverse=True)]
