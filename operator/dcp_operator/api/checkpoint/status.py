"""The Checkpoint's status: what was observed and decided so far. With the spec it is all that `decide` remembers."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationError

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.message import Wire
from dcp_contract.reasons import Reason
from dcp_contract.report import MAX_FAILED_RANKS

LongText = Annotated[str, Field(max_length=2048)]
ShortText = Annotated[str, Field(max_length=253)]


class Phase(StrEnum):
    """Where a Checkpoint stands, in one word; derived from the conditions' reasons."""

    terminal: bool
    """Whether nothing but a new runId changes it."""

    PENDING = "Pending"
    QUEUED = "Queued"
    STARTING = "Starting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded", True
    CONFLICT = "Conflict", True
    FAILED = "Failed", True
    SUSPENDED = "Suspended"

    def __new__(cls, word: str, terminal: bool = False) -> Self:  # noqa: FBT001, FBT002 - as its members are written
        """Make a member whose value is its word alone."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.terminal = terminal
        return member


class Condition(Wire):
    """A Kubernetes condition."""

    model_config = ConfigDict(extra="ignore")

    type: Annotated[str, Field(max_length=63)] = Field(
        description="Ready, Reconciling, Stalled, Complete, Failed, Suspended, SpecChanged, or Deleting."
    )
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the condition holds.")
    reason: Annotated[str, Field(max_length=63)] = Field(description="The status's reason, or else its phase.")
    message: LongText = Field(
        description="The same in words. The message of Ready says how the Checkpoint stands, and what to do."
    )
    last_transition_time: datetime = Field(description="When the condition's status changed last.")
    observed_generation: int = Field(description="Generation of the spec that the condition is about.")


class Failure(Wire):
    """What went wrong, where, and whether another attempt can help."""

    model_config = ConfigDict(extra="ignore")

    reason: Reason = Field(description="What kind of failure it is.")
    message: LongText = Field(default="", description="What failed, and where.")
    rank: int | None = Field(default=None, description="The rank that failed; none where a pod or the launcher did.")
    pod: ShortText = Field(default="", description="The pod that it happened in.")
    node: ShortText = Field(default="", description="The node that the pod ran on.")
    exit_code: int | None = Field(default=None, description="Exit code of the process that failed.")
    retriable: bool = Field(default=False, description="Whether another attempt can help.")
    attempt: int | None = Field(default=None, description="Number of the attempt that failed.")
    traceback: LongText = Field(default="", description="The last part of the Python traceback.")


class RunProgress(Wire):
    """How far a running attempt is. Written at most every five seconds."""

    model_config = ConfigDict(extra="ignore")

    stage: ShortText = Field(default="", description="What the ranks are doing, such as upload.")
    percent: int = Field(default=0, ge=0, le=100, description="How much of the stage's bytes is done.")
    bytes: int = Field(default=0, description="Bytes moved so far, over all ranks.")
    total_bytes: int = Field(default=0, description="Bytes to move, over all ranks.")
    bytes_per_second: int = Field(default=0, description="How fast the bytes move.")
    last_update_time: datetime = Field(description="When this progress was written.")


class Retries(Wire):
    """The book of attempts: which have ended, and how many of those count against spec.retries."""

    model_config = ConfigDict(extra="ignore")

    last_ended: int = Field(
        default=0, description="Number of the last attempt that has ended and whose outcome stands in this status."
    )
    failed: int = Field(default=0, description="Ended attempts that count against spec.retries.")
    uncounted: int = Field(
        default=0, description="Ended attempts that do not count against spec.retries: preempted, suspended, probes."
    )
    probe: bool = Field(
        default=False, description="The next attempt is a probe: it only looks whether the lost Save had committed."
    )
    next_time: datetime | None = Field(default=None, description="The next attempt starts at this time or later.")


class ReadSource(Wire):
    """What storage.latestOf was looked up to be: all attempts of the run read it."""

    model_config = ConfigDict(extra="ignore")

    series: ShortText = Field(description="The series.")
    name: ShortText = Field(description="The Checkpoint that saved it.")
    url: Annotated[str, Field(max_length=1024)] = Field(description="Where it stands.")
    save_id: ShortText = Field(default="", description="Id of the committed save.")
    step: int | None = Field(default=None, description="The training step that it was saved at.")
    service_account: ShortText = Field(default="", description="The ServiceAccount that it was saved with.")
    options: dict[str, Any] = Field(
        default_factory=dict, max_length=32, description="The storage options that it was saved with."
    )
    credentials_secret: ShortText = Field(default="", description="The Secret that it was saved with.")
    ca_secret: ShortText = Field(default="", description="The Secret of authorities that it was saved with.")


_HOW: Final = frozenset(
    {
        "caBundle",
        "connectTimeout",
        "keepReplaced",
        "maxAttempts",
        "readTimeout",
        "requesterPays",
        "serverSideEncryption",
        "sseKmsKeyId",
        "uploadChecksum",
    }
)
"""Options that say how a store is asked, and never which one."""


class StorePlace(Wire):
    """Where a store was, and how one got there, when the first attempt began."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(description="The CheckpointStore.")
    url: Annotated[str, Field(max_length=1536)] = Field(description="Where the checkpoint stands.")
    options: dict[str, Any] = Field(default_factory=dict, max_length=32, description="The store's options.")
    credentials_secret: ShortText = Field(default="", description="The store's Secret of credentials.")
    ca_secret: ShortText = Field(default="", description="The store's Secret of authorities.")
    service_account: ShortText = Field(default="", description="The store's ServiceAccount.")

    def is_at(self, other: "StorePlace") -> bool:
        """Return whether two are one place, by whatever keys one gets there, and however it is asked."""
        ours, theirs = (
            {name: value for name, value in each.options.items() if name not in _HOW} for each in (self, other)
        )
        return (self.url, ours) == (other.url, theirs)

    def to_storage(self) -> dict[str, Any]:
        """Return the storage that it comes to, as the JSON of a spec."""
        access = {
            "options": self.options,
            "credentialsSecretRef": self.credentials_secret and {"name": self.credentials_secret},
            "caSecretRef": self.ca_secret and {"name": self.ca_secret},
            "serviceAccountName": self.service_account,
        }
        return {"url": self.url} | {name: value for name, value in access.items() if value}


class JobRef(Wire):
    """The Job of the latest attempt."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(description="Name of the Job.")
    uid: ShortText = Field(
        default="", description="uid of the Job, once it was created or seen. A Job of another uid is not this one."
    )


class TargetRef(Wire):
    """The training that a Save with a target is asked of."""

    model_config = ConfigDict(extra="ignore")

    name: ShortText = Field(default="", description="What spec.target names, for people.")
    group: ShortText = Field(
        default="", description="The process group that was asked, once one was: a random id of its agent."
    )
    pod: ShortText = Field(default="", description="The pod of its rank 0.")
    pod_uid: ShortText = Field(default="", description="uid of that pod.")
    world: int = Field(default=0, description="How many ranks it has.")
    gone_time: datetime | None = Field(default=None, description="When the process group was first found to be gone.")


class Status(Wire):
    """The status subresource; fields that a newer or older operator wrote and this one doesn't know are let go."""

    model_config = ConfigDict(extra="ignore")

    observed_generation: int = Field(default=0, description="Generation of the spec that this status is about.")
    run_id: Annotated[str, Field(max_length=63)] = Field(
        default="", description="spec.runId of the run that this status is about."
    )
    run_generation: int = Field(
        default=0,
        description="Generation at which the run began. A Job of an earlier generation is no attempt of this run.",
    )
    free_form_digest: Annotated[str, Field(max_length=64)] = Field(
        default="", description="Digest of the args, options and podTemplate that this status is about."
    )
    phase: Phase = Field(default=Phase.PENDING, description="Where the Checkpoint stands, in one word.")
    reason: Reason | None = Field(default=None, description="Why it stands there, where there is more to say.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="Ready, Reconciling and Stalled as kstatus reads them; Complete, Failed and Suspended as a Job has "
        "them; SpecChanged while the spec is another than the one that the run began with; Deleting while the data "
        "of a deleted Checkpoint are removed.",
    )
    start_time: datetime | None = Field(default=None, description="When the first attempt was created.")
    completion_time: datetime | None = Field(default=None, description="When the result was known.")
    duration_seconds: int | None = Field(default=None, description="Seconds from startTime to completionTime.")
    attempts: int = Field(default=0, description="Attempts started, each one Job.")
    retries: Retries = Field(default=Retries(), description="Which attempts have ended, and how many of them count.")
    first_refused_time: datetime | None = Field(
        default=None,
        description="When the API server first refused to create the objects of the next attempt; absent unless it "
        "does so now. A further try comes after a tenth of the time since then, at least 30 and at most 300 seconds.",
    )
    size: ShortText = Field(default="", description="Bytes of the data files, for people.")
    duration: ShortText = Field(default="", description="From start to completion, for people.")
    throughput: ShortText = Field(default="", description="Bytes per second of the finished attempt, for people.")
    ranks: ShortText = Field(default="", description="World size, and pods x ranks per pod.")
    conflict_guard: ShortText = Field(
        default="", description="Atomic if the store itself refuses a second commit, else BestEffort."
    )
    checkpoint: CheckpointInfo | None = Field(default=None, description="What stands at the URL.")
    progress: RunProgress | None = Field(default=None, description="How far the running attempt is.")
    conflict: Conflict | None = Field(
        default=None, description="Who saved the checkpoint that stands at the URL already."
    )
    failure: Failure | None = Field(default=None, description="Why the latest failed attempt failed.")
    failed_ranks: tuple[Failure, ...] = Field(
        default=(), max_length=MAX_FAILED_RANKS, description="The ranks that failed first in the latest failed attempt."
    )
    failed_rank_count: int = Field(default=0, description="Failed ranks in all; failedRanks lists the first.")
    warnings: tuple[LongText, ...] = Field(
        default=(), max_length=16, description="What the ranks of the latest ended attempt warned of."
    )
    source: ReadSource | None = Field(
        default=None, description="What storage.latestOf was looked up to be when the run began."
    )
    store: StorePlace | None = Field(
        default=None,
        description="What the store of storage.store was when the first attempt began. The place stays, whatever "
        "becomes of the store.",
    )
    job_ref: JobRef | None = Field(default=None, description="The Job of the latest attempt.")
    target: TargetRef | None = Field(default=None, description="The training that is asked, where spec has a target.")
    blocked_seconds: float | None = Field(
        default=None, description="Seconds that the training loop stood still for the save, where spec has a target."
    )
    entries: ShortText = Field(default="", description="What a Load made of the checkpoint's entries, for people.")

    @classmethod
    def read(cls, body: Mapping[str, Any] | None) -> Self:
        """Return the status of a live object; a field that can't be read is dropped, never the whole."""
        return cls.read_in_part(body)[0]

    @classmethod
    def names(cls) -> frozenset[str]:
        """Return the JSON names of all fields that this version knows."""
        return frozenset(str(field.alias) for field in cls.model_fields.values())

    @classmethod
    def read_in_part(cls, body: Mapping[str, Any] | None) -> tuple[Self, frozenset[str]]:
        """Return the status as `read` does, and the JSON names of the fields that were dropped.

        They were written, so the defaults that they have in the status are not true.
        """
        fields, dropped = dict(body or {}), set[str]()
        while True:
            try:
                return cls.model_validate(fields), frozenset(dropped)
            except ValidationError as error:
                found = {str(each["loc"][0]) for each in error.errors()}
            dropped |= found
            for name in found:
                fields.pop(name, None)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready dict, without what holds its default; the phase always stands."""
        return {"phase": self.phase.value} | self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def with_changes(self, **changes: object) -> Self:
        """Return this status with some fields changed."""
        return self.model_copy(update=changes)

    def finished(self, phase: Phase, reason: Reason, now: datetime) -> Self:
        """Return this status in a terminal phase. The time at which the result was known first stays."""
        end = self.completion_time or now
        seconds = int((end - (self.start_time or end)).total_seconds())
        return self.with_changes(
            phase=phase, reason=reason, completion_time=end, duration_seconds=seconds, progress=None
        )
