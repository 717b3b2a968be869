"""The spec of a CheckpointSeries: what is done again and again, when, and how many of its objects are kept."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field

from dcp_contract.durations import parse_duration
from dcp_contract.message import Wire
from dcp_contract.retention import Retention
from dcp_operator.api.checkpoint.in_store import InStore, StoreUse
from dcp_operator.api.checkpoint.spec import CheckpointSpec, StorageAccess, StorageSpec
from dcp_operator.api.naming import HOLD_LABEL, time_in_name
from dcp_operator.api.series.schedule import Schedule
from dcp_operator.api.store_path import LONGEST

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_LABEL_VALUE: Final = 63
_ANNOTATION_VALUE: Final = 4096
_DURATION: Final = r"^([0-9]{1,4}d)?([0-9]{1,5}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$"
"""Of `dcp_contract.durations`, of fewer digits."""

_HOLD: Final = r"^([0-9]{1,2}h)?([0-9]{1,4}m)?([0-9]{1,5}s)?$"
"""As CEL reads it, too: it knows no days."""
LONGEST_PREFIX: Final = LONGEST - len("/20260131-080000")
"""Of a series' path: each run adds its time."""
LONGEST_HOLD: Final = timedelta(hours=24)


class ConcurrencyPolicy(StrEnum):
    """What becomes of a run that is due while an earlier one is not finished; as in a CronJob."""

    FORBID = "Forbid"
    ALLOW = "Allow"
    REPLACE = "Replace"


class SeriesStorage(InStore, StorageAccess):
    """Where a series saves."""

    url: str = Field(
        default="",
        max_length=1000,
        description="Prefix of the URLs of what the series saves: a run of 2026-01-31 08:00:00 UTC saves to "
        "<url>/20260131-080000.",
    )
    path: str = Field(
        default="",
        max_length=LONGEST_PREFIX,
        description="Prefix below the url of the store, in place of url: a run of 2026-01-31 08:00:00 UTC saves to "
        "<path>/20260131-080000.",
    )


class TemplateSpec(CheckpointSpec):
    """The spec of each run: that of a Checkpoint, without storage where it is a Save."""

    storage: StorageSpec | None = Field(  # type: ignore[assignment] # of a Save it stands in the series
        default=None,
        description="What a Load or a Verify reads. A Save takes spec.storage of the series; one with a target saves "
        "below the prefix of its training.",
    )


class TemplateMetadata(Wire):
    """Labels and annotations of each run."""

    labels: dict[str, Annotated[str, Field(max_length=_LABEL_VALUE)]] = Field(
        default_factory=dict, max_length=32, description="Labels of each run's Checkpoint, such as that of a queue."
    )
    annotations: dict[str, Annotated[str, Field(max_length=_ANNOTATION_VALUE)]] = Field(
        default_factory=dict, max_length=32, description="Annotations of each run's Checkpoint."
    )


class CheckpointTemplate(Wire):
    """The Checkpoint that each run is."""

    metadata: TemplateMetadata = Field(default=TemplateMetadata(), description="Its labels and annotations.")
    spec: TemplateSpec = Field(description="Its spec: any operation.")


class HistoryLimit(Wire):
    """How many finished runs keep their objects. The data of a run never goes with it."""

    successful: int = Field(default=3, ge=1, le=1000, description="Runs that succeeded, the newest first.")
    failed: int = Field(default=1, ge=0, le=1000, description="Runs that failed, the newest first.")


class OnDisruption(Wire):
    """What is done before a pod of the training is evicted: a save, for which evictions wait."""

    hold: str = Field(
        default="10m",
        min_length=2,
        max_length=15,
        pattern=_HOLD,
        description="How long evictions of the training's pods wait for the save at most, such as 90s, 10m or 1h30m: "
        "24h or less, from the first eviction on.",
    )

    @property
    def time(self) -> timedelta:
        """The time that evictions wait at most."""
        return parse_duration(self.hold)


class SeriesSpec(Wire):
    """A Checkpoint again and again: on a schedule, or every so often. Everything of it may change."""

    schedule: str | None = Field(
        default=None,
        min_length=9,
        max_length=253,
        description="When a run begins, in cron's five fields: minute, hour, day of the month, month, day of the week.",
    )
    time_zone: str | None = Field(
        default=None,
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$",
        description="Time zone of the schedule, such as Europe/Berlin. Default: UTC.",
    )
    every: str | None = Field(
        default=None,
        min_length=2,
        max_length=27,
        pattern=_DURATION,
        description="Time between the beginnings of two runs, such as 30m or 1h30m, counted from the creation of the "
        "series. In place of schedule. A series with a target and storage may have neither: then it takes what the "
        "training saves by itself.",
    )
    suspend: bool = Field(default=False, description="true begins no run. Runs under way go on.")
    immediate: bool = Field(default=False, description="Whether the first run begins as the series is created.")
    concurrency_policy: ConcurrencyPolicy = Field(
        default=ConcurrencyPolicy.FORBID,
        description="What becomes of a run that is due while an earlier one is not finished: Forbid has it wait, Allow "
        "begins it, Replace deletes the Checkpoint of the earlier one and begins it.",
    )
    starting_deadline_seconds: int | None = Field(
        default=None,
        ge=1,
        le=31_536_000,
        description="Seconds after its time within which a run has to begin; later it is missed. Default: until the "
        "next one is due. Of several that were missed only the latest is made up for.",
    )
    history_limit: HistoryLimit = Field(
        default=HistoryLimit(), description="How many finished runs keep their objects."
    )
    retention: Retention | None = Field(
        default=None,
        description="Which checkpoints are kept: each that any of these rules keeps. The others are removed with their "
        "data. Left out: none is ever removed.",
    )
    on_disruption: OnDisruption | None = Field(
        default=None,
        description="Has the training save before one of its pods is evicted, as by kubectl drain. Only with a target, "
        f"in a namespace with the label {HOLD_LABEL}=true.",
    )
    storage: SeriesStorage | None = Field(
        default=None,
        description="Where the series saves. With a target: where the training saves, and with which credentials the "
        "retention removes. What the training saves there by itself becomes Checkpoints of the series.",
    )
    template: CheckpointTemplate = Field(description="The Checkpoint that each run is.")


@dataclass(frozen=True, kw_only=True)
class Series:
    """A CheckpointSeries object: who it is, what it asks for, and what follows from that."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    created: datetime = _EPOCH
    spec: SeriesSpec
    schedule: Schedule
    """When its runs are due."""
    run_spec: dict[str, Any] = field(default_factory=dict)
    """The spec of each run, as JSON; of a Save without the end of its URL."""
    storage: dict[str, Any] = field(default_factory=dict)
    """The series' own, as JSON; empty where it has none."""
    store: StoreUse | None = None
    """What the store came to that its storage names; None where it names none."""

    @property
    def saves(self) -> bool:
        """Whether each run saves to a URL that the series gives it; a training has its own."""
        return bool(self.storage) and self.spec.template.spec.target is None

    @property
    def waits_for_store(self) -> bool:
        """Whether nobody knows yet where it saves."""
        return self.store is not None and not self.store.found

    @property
    def adopts(self) -> bool:
        """Whether saves that its training makes by itself become Checkpoints of the series."""
        return bool(self.storage) and self.spec.template.spec.target is not None

    def spec_of_run(self, scheduled: datetime) -> dict[str, Any]:
        """Return the spec of the Checkpoint of a run."""
        if not self.saves:
            return self.run_spec
        storage = self.run_spec["storage"]
        if self.store is not None:
            # By the store: each run is refused, waits and is written down by what the store says when it begins.
            place = {"store": {"name": self.store.name}} if self.store.name else {}
            return self.run_spec | {"storage": place | {"path": url_of_run(self.store.path, scheduled)}}
        return self.run_spec | {"storage": storage | {"url": url_of_run(storage["url"], scheduled)}}


def url_of_run(prefix: str, scheduled: datetime) -> str:
    """Return where the run of a scheduled time saves."""
    return f"{prefix.rstrip('/')}/{time_in_name(scheduled)}"
