"""The status of a CheckpointSeries: what its runs came to, and when the next one is due."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import ConfigDict, Field, ValidationError

from dcp_contract.message import Wire
from dcp_operator.api.checkpoint.status import Condition, LongText, ShortText

MOST_LISTED: Final = 32
"""Checkpoints in a list of a status, at most."""
MOST_ACTIVE: Final = 32
"""Names of active runs in a status, at most."""


class SeriesReason(StrEnum):
    """Why a series stands where it stands: the reason of its conditions."""

    SCHEDULED = "Scheduled"
    SUSPENDED = "Suspended"
    LAST_RUN_FAILED = "LastRunFailed"
    RUN_REFUSED = "RunRefused"
    REMOVAL_FAILED = "RemovalFailed"
    NEVER_DUE = "NeverDue"
    INVALID_SPEC = "InvalidSpec"
    NOT_ENABLED = "NotEnabled"


class Latest(Wire):
    """The newest committed checkpoint of the series."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(description="The Checkpoint that saved it.")
    url: Annotated[str, Field(max_length=1024)] = Field(description="Where it stands.")
    step: int | None = Field(default=None, description="The training step that it was saved at.")
    time: datetime = Field(description="When it was known to be committed.")


class RunFailure(Wire):
    """The latest run that failed."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(description="Its Checkpoint, which may be gone by now.")
    reason: ShortText = Field(default="", description="Its reason: one of those of a Checkpoint.")
    message: LongText = Field(default="", description="What failed, and what to do.")
    time: datetime = Field(description="When it ended.")


class Missed(Wire):
    """Scheduled times at which no run began, and none will."""

    model_config = ConfigDict(extra="ignore")

    count: int = Field(default=0, description="How many, in all; of those of one absence 100 are counted at most.")
    last_time: datetime = Field(description="The latest of them.")


class RefusedSave(Wire):
    """A save that the training made by itself and that the series did not take."""

    model_config = ConfigDict(extra="ignore")

    pod: ShortText = Field(description="The pod whose agent reported it.")
    url: Annotated[str, Field(max_length=1024)] = Field(default="", description="Where it was saved.")
    message: LongText = Field(description="Why it was not taken.")
    time: datetime = Field(description="When that was said. It is said once in ten minutes.")


class KeptCheckpoint(Wire):
    """A committed checkpoint that stays."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(description="The Checkpoint that saved it.")
    step: int | None = Field(default=None, description="The training step that it was saved at.")
    reasons: ShortText = Field(description="Why it stays.")


class RemovedCheckpoint(Wire):
    """A checkpoint that was removed with its data."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(description="The Checkpoint that had saved it; it is gone, too.")
    url: Annotated[str, Field(max_length=1024)] = Field(description="Where it stood.")
    step: int | None = Field(default=None, description="The training step that it was saved at.")
    time: datetime = Field(description="When it was removed.")


class UnremovedCheckpoint(Wire):
    """A checkpoint that could not be removed."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(description="The Delete that failed. It is tried again after an hour.")
    url: Annotated[str, Field(max_length=1024)] = Field(description="What it was to remove.")
    reason: ShortText = Field(default="", description="Why it failed: one of the reasons of a Checkpoint.")
    message: LongText = Field(default="", description="What failed, and what to do.")


class RetentionStatus(Wire):
    """What the retention has removed, what it keeps and why, and what it could not remove."""

    model_config = ConfigDict(extra="ignore")

    kept: tuple[KeptCheckpoint, ...] = Field(
        default=(), max_length=MOST_LISTED, description="Checkpoints that stay, the newest first."
    )
    kept_count: int = Field(default=0, description="How many; kept names the newest.")
    removed: tuple[RemovedCheckpoint, ...] = Field(
        default=(), max_length=MOST_LISTED, description="Checkpoints that were removed, the latest first."
    )
    removed_count: int = Field(default=0, description="How many in all; removed names the latest.")
    unremoved: tuple[UnremovedCheckpoint, ...] = Field(
        default=(), max_length=MOST_LISTED, description="Checkpoints that could not be removed."
    )
    keep_off: tuple[ShortText, ...] = Field(
        default=(),
        max_length=MOST_LISTED,
        description="Pods whose agent is connected and has a keep of its own, which is off: this retention removes.",
    )


class SeriesStatus(Wire):
    """What a series has done so far. What its Checkpoints tell is told by them alone: a restart loses nothing."""

    model_config = ConfigDict(extra="ignore")

    observed_generation: int = Field(default=-1, description="Generation of the spec that this status is about.")
    schedule: Annotated[str, Field(max_length=400)] = Field(default="", description="When runs are due, in words.")
    schedule_since: datetime | None = Field(
        default=None, description="Since when that schedule holds: no earlier time of it is due."
    )
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="Ready, Reconciling and Stalled as kstatus reads them; Suspended as a CronJob has it; "
        "EvictionsHeld with an onDisruption.",
    )
    next: datetime | None = Field(default=None, description="When the next run is due.")
    last_schedule_time: datetime | None = Field(
        default=None, description="The scheduled time of the latest run that has begun."
    )
    last_successful_time: datetime | None = Field(default=None, description="When the latest run that succeeded ended.")
    active: tuple[ShortText, ...] = Field(
        default=(), max_length=MOST_ACTIVE, description="Checkpoints that are not finished, the newest first."
    )
    active_count: int = Field(default=0, description="How many; active names the newest.")
    latest: Latest | None = Field(default=None, description="The newest committed checkpoint of the series.")
    last_failure: RunFailure | None = Field(default=None, description="The latest run that failed.")
    retention: RetentionStatus | None = Field(
        default=None, description="What the retention has removed, what it keeps, and what it could not remove."
    )
    refused_save: RefusedSave | None = Field(
        default=None, description="The latest save of the training itself that the series did not take."
    )
    missed: Missed | None = Field(default=None, description="Scheduled times at which no run began, and none will.")

    @classmethod
    def read(cls, body: Mapping[str, Any] | None) -> Self:
        """Return the status of a live object; a field that can't be read is dropped, never the whole."""
        fields = dict(body or {})
        while True:
            try:
                return cls.model_validate(fields)
            except ValidationError as error:
                for each in error.errors():
                    fields.pop(str(each["loc"][0]), None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready dict, without what holds its default; the count of active runs always stands."""
        return {"activeCount": self.active_count} | self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def with_changes(self, **changes: object) -> Self:
        """Return this status with some fields changed."""
        return self.model_copy(update=changes)
