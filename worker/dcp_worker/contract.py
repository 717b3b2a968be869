"""The two messages that cross between control plane and data plane: a Task goes in, a Report comes out.

This is the only module that both sides import. It loads neither torch nor fsspec nor a Kubernetes client, so that the
operator stays small and starts fast. Both messages are JSON with the API's camelCase names. The sections of a Task are
the very sections of a Checkpoint's spec that the data plane needs; the operator's `spec` extends them with what only
the control plane reads.
"""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import Annotated, Any, Final, NamedTuple, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)
from pydantic.alias_generators import to_camel

from dcp_worker import wire

CONTRACT_VERSION: Final = 2
"""Of Task and Report; a message without one is of version 1. A worker of version n works with operators of n-1 to n+1.

A change that the version before can't read raises it. A new field of the Task is one that a worker may leave out, then
`Task.ignorable` names it, or one that has to be understood, then it is sent only where it is needed. A new reason is
sent with `RankFailure.retriable` for one version.
"""
TASK_ENV: Final = "DCP_TASK"
"""The Task as JSON."""
NODE_RANK_ENV: Final = "DCP_NODE_RANK"
"""Which pod of the attempt this is, from 0. Falls back to the Indexed Job's `JOB_COMPLETION_INDEX`."""
MASTER_ADDR_ENV: Final = "DCP_MASTER_ADDR"
"""Where rank 0 listens for the others: the DNS name of pod 0 in the attempt's headless Service."""
MASTER_PORT_ENV: Final = "DCP_MASTER_PORT"
TERMINATION_LOG_ENV: Final = "DCP_TERMINATION_LOG"
"""Where the Report goes. Default `/dev/termination-log`, which the kubelet copies into the pod's status."""
PROGRESS_SECONDS_ENV: Final = "DCP_PROGRESS_SECONDS"
"""Seconds between two progress lines of rank 0. Default 5."""

REPORT_LIMIT_ENV: Final = "DCP_REPORT_LIMIT"
"""Bytes that the Report may have, where the pod's containers are too many for REPORT_LIMIT."""

REPORT_LIMIT: Final = 4096
"""Bytes that a Report may have: what the kubelet reads of one container's termination message."""
POD_REPORTS_LIMIT: Final = 12 * 1024
"""Bytes of termination messages that the kubelet keeps per pod; each container's is cut at an equal share."""
MAX_FAILED_RANKS: Final = 16
"""Failures listed in a Report and in status; the rest is a count."""

_TOO_MUCH: Final = 1 << 63

PROGRESS_KEY: Final = "dcpProgress"
"""A log line that is a JSON object with this one key is a Progress; every other line is the workload's own output."""


class StorageOption(NamedTuple):
    """One option of `storage.options`: its type, what it does, and the values it takes where these are few."""

    kind: type[str] | type[int] | type[float] | type[bool]
    doc: str
    choices: tuple[str, ...] = ()
    zero: bool = False
    """Whether a number of seconds may be none."""


_KEPT: Final = {
    "keep_replaced": StorageOption(
        float,
        "Seconds for which the data of what a Save replaces are kept for those who read them. Default an hour on "
        "object stores, 0 on file systems.",
        zero=True,
    ),
}
_NETWORK: Final = {
    **_KEPT,
    "endpoint_url": StorageOption(str, "Address of the store where it is not the provider's own, with http or https."),
    "ca_bundle": StorageOption(str, "Path in the worker of the PEM file with the authorities to trust."),
    "proxy_url": StorageOption(str, "HTTP proxy for every request to the store."),
    "connect_timeout": StorageOption(float, "Seconds to wait for a connection."),
    "read_timeout": StorageOption(float, "Seconds to wait for the next bytes of an answer."),
    "max_attempts": StorageOption(int, "Tries of one request in all, the first one included."),
    "anon": StorageOption(bool, "Send requests without credentials."),
}
_AZURE: Final = {
    **_NETWORK,
    "account_name": StorageOption(str, "Storage account, where neither the URL nor the Secret names it."),
}

STORAGE_OPTIONS: Final[Mapping[str, Mapping[str, StorageOption]]] = {
    "s3": {
        **_NETWORK,
        "region": StorageOption(str, "Region of the bucket, such as eu-central-1."),
        "addressing_style": StorageOption(
            str, "Where the bucket's name goes in the address.", ("auto", "path", "virtual")
        ),
        "requester_pays": StorageOption(bool, "Accept the cost of requests to a requester-pays bucket."),
        "server_side_encryption": StorageOption(str, "Encryption at rest that writes ask for.", ("AES256", "aws:kms")),
        "sse_kms_key_id": StorageOption(str, "Name or ARN of the KMS key, with server_side_encryption aws:kms."),
        "upload_checksum": StorageOption(
            str,
            "Digest by which the store checks what is sent to it; none where it knows none.",
            ("crc64nvme", "sha256", "none"),
        ),
    },
    "gs": {**_NETWORK, "project": StorageOption(str, "Project that requests are billed to.")},
    "az": _AZURE,
    "abfs": _AZURE,
    "file": _KEPT,
    "memory": _KEPT,
}
"""Neutral names of the non-secret storage options, per protocol; the engine translates them to each library's own."""

_AZURE_KEYS: Final = (
    "AZURE_STORAGE_ACCOUNT_NAME",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_KEY",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_TENANT_ID",
)

CREDENTIAL_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "s3": ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
    "gs": ("GOOGLE_SERVICE_ACCOUNT_KEY",),
    "az": _AZURE_KEYS,
    "abfs": _AZURE_KEYS,
    "file": (),
    "memory": (),
}
"""Keys that a credentials Secret may hold, per protocol; each becomes an environment variable of the ranks."""

CA_KEY: Final = "ca.crt"
"""Key of a credentials Secret with the authorities to trust, in PEM; not secret, but it comes with what is."""
CA_ENV: Final = "DCP_CA_CERT"
"""The same, as the launcher gets it; the ranks get a file of it by the name that S3's libraries know."""
CA_FILE_ENV: Final = "AWS_CA_BUNDLE"
CREDENTIALS_ENV: Final = "DCP_CREDENTIALS_SECRET"
"""Name of the Secret that a pod's credentials were to come from."""


class Reason(StrEnum):
    """Why a Checkpoint stands where it stands: stable words, the vocabulary of conditions and of failures."""

    SAVED = "Saved"
    LOADED = "Loaded"
    VERIFIED = "Verified"
    OVERWRITE_CONFLICT = "OverwriteConflict"
    INVALID_SPEC = "InvalidSpec"
    ENTRYPOINT_ERROR = "EntrypointError"
    RANK_FAILED = "RankFailed"
    RANK_HUNG = "RankHung"
    OUT_OF_MEMORY = "OutOfMemory"
    WORKER_LOST = "WorkerLost"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    START_TIMEOUT = "StartTimeout"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    STORAGE_UNAVAILABLE = "StorageUnavailable"
    STORAGE_DENIED = "StorageDenied"
    STORAGE_FULL = "StorageFull"
    CHECKPOINT_NOT_FOUND = "CheckpointNotFound"
    CHECKPOINT_CORRUPTED = "CheckpointCorrupted"
    STATE_MISMATCH = "StateMismatch"
    SUSPENDED = "Suspended"
    QUEUED = "Queued"
    DEVICE_UNAVAILABLE = "DeviceUnavailable"
    URL_IN_USE = "UrlInUse"
    NOT_ENABLED = "NotEnabled"
    FORBIDDEN = "Forbidden"


_REASONS: Final = frozenset(reason.value for reason in Reason)


class Weight(IntEnum):
    """The table of precedence among failures of one attempt: the lowest class with a member holds the cause."""

    MEMORY = 1
    """The kernel killed a worker: everything else follows from it."""
    POD = 2
    """A pod went away: preempted, evicted, deleted, node lost."""
    NAMED = 3
    """A rank or a preflight named a specific reason: storage, entrypoint, state, device."""
    RANK = 4
    """A rank raised, died of a signal, or hung: whichever was first."""
    DEADLINE = 5
    ECHO = 6
    """A rank lost its peer."""

    @classmethod
    def of(cls, reason: Reason) -> "Weight":
        """Return the class of a failure that a rank or a launcher reports."""
        return _WEIGHTS.get(reason, cls.NAMED)


_WEIGHTS: Final = {
    Reason.OUT_OF_MEMORY: Weight.MEMORY,
    Reason.RANK_FAILED: Weight.RANK,
    Reason.RANK_HUNG: Weight.RANK,
    Reason.DEADLINE_EXCEEDED: Weight.DEADLINE,
    Reason.WORKER_LOST: Weight.ECHO,
}


class Operation(StrEnum):
    """What a Checkpoint does, once, with the checkpoint at its URL."""

    SAVE = "Save"
    LOAD = "Load"
    VERIFY = "Verify"


class Strategy(StrEnum):
    """How the worker shards the model over the ranks."""

    FSDP2 = "fsdp2"
    FSDP1 = "fsdp1"
    HSDP = "hsdp"
    DDP = "ddp"
    NONE = "none"


class Device(StrEnum):
    """Where the model lives: `cuda` with NCCL, `cpu` with gloo, `auto` takes what the pod has."""

    AUTO = "auto"
    CUDA = "cuda"
    CPU = "cpu"


class Wire(BaseModel):
    """A frozen JSON message with camelCase names, which refuses fields that it does not know."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        ser_json_inf_nan="constants",
    )

    def to_json(self) -> str:
        """Return compact JSON without the fields that hold their default."""
        return self.model_dump_json(by_alias=True, exclude_defaults=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready dict without the fields that are None."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


def _known(value: object, unknown: object) -> object:
    fits = not isinstance(value, int | float) or abs(value) < _TOO_MUCH
    return value if fits else unknown


def _counted(value: object) -> object:
    return None if isinstance(value, int | float) and value < 0 else _known(value, None)


def _utc(time: datetime | None) -> datetime | None:
    if time is None or time.tzinfo is None:
        return time and time.replace(tzinfo=UTC)
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return None


Url = Annotated[str, Field(min_length=1, max_length=1024)]
Text = Annotated[str, BeforeValidator(lambda text: _encodable(text) if isinstance(text, str) else text)]
"""Words of foreign origin: what UTF-8 can't say (a path's stray byte in an error) becomes a question mark."""
Int = Annotated[int, BeforeValidator(lambda value: _known(value, 0))]
"""A number of foreign origin, as an API server stores it: what 64 bits can't hold is 0."""
MaybeInt = Annotated[int | None, BeforeValidator(lambda value: _known(value, None))]
"""The same where it may be unknown: what 64 bits can't hold is."""
MaybeCount = Annotated[int | None, BeforeValidator(_counted)]
"""The same where nothing is less than 0."""
Real = Annotated[float, BeforeValidator(lambda value: _known(value, 0.0))]
Time = Annotated[datetime | None, AfterValidator(_utc)]
"""A time of foreign origin, in UTC; one that UTC can't say is unknown."""
Glob = Annotated[str, Field(min_length=1, max_length=253)]
ClassName = Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+$")]


class Storage(Wire):
    """Where the checkpoint stands."""

    url: Url = Field(description="fsspec URL of the checkpoint, such as s3://bucket/run/step-1000. No chained URLs.")
    options: dict[str, Any] = Field(
        default_factory=dict,
        max_length=32,
        description="Non-secret storage options, such as endpoint_url and region. Secrets go to credentialsSecretRef.",
    )
    overwrite: bool = Field(
        default=False,
        description="false refuses a URL that holds a committed checkpoint; true replaces that checkpoint atomically.",
    )


class Source(Wire):
    """A committed checkpoint to start from."""

    url: Url = Field(description="fsspec URL of a committed checkpoint, read with the storage options of this object.")


class Workload(Wire):
    """What builds the model and the optimizer, in the worker image."""

    entrypoint: str = Field(
        min_length=3,
        max_length=253,
        pattern=r"^[A-Za-z_][A-Za-z0-9_.]*:[A-Za-z_][A-Za-z0-9_.]*$",
        description="module:Factory, called with args in every rank, such as my_pkg.train:Workload.",
    )
    args: dict[str, Any] = Field(
        default_factory=dict, max_length=64, description="Keyword arguments of the entrypoint; the same in every rank."
    )
    steps: int = Field(default=0, ge=0, le=1_000_000, description="Optimisation steps to run before a Save.")
    from_: Source | None = Field(default=None, alias="from", description="Load this checkpoint before the steps.")
    allow: list[ClassName] = Field(
        default_factory=list,
        max_length=64,
        description="Classes that the checkpoint's objects may be of, beside the common ones, such as my_pkg.Config. "
        "Each is imported, and may run what it likes on a Load.",
    )


class Parallelism(Wire):
    """How the model is sharded."""

    strategy: Strategy = Field(
        default=Strategy.FSDP2,
        description="fsdp2 (fully_shard), fsdp1 (FullyShardedDataParallel), hsdp (replicated shards), ddp or none.",
    )
    replicate: int = Field(default=1, ge=1, le=4096, description="hsdp: number of replica groups; divides the ranks.")


class Workers(Wire):
    """How many ranks, and on what."""

    num_nodes: int = Field(default=1, ge=1, le=4096, description="Pods.")
    num_proc_per_node: int = Field(default=1, ge=1, le=64, description="Ranks per pod; GPUs per pod on cuda.")
    device: Device = Field(default=Device.AUTO, description="auto takes a GPU if the pod has one; cuda insists on it.")

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return self.num_nodes * self.num_proc_per_node


class LoadSelection(Wire):
    """Which part of the checkpoint a Load reads."""

    strict: bool = Field(
        default=True,
        description="Fail if a selected entry is not on both sides: the checkpoint's, and the workload's of each part "
        "(model, optim, extra state) that it has.",
    )
    include: list[Glob] = Field(
        default_factory=list, max_length=64, description="Globs over DCP names (model.*, optim.*). Empty means all."
    )
    exclude: list[Glob] = Field(default_factory=list, max_length=64, description="Globs over DCP names to leave out.")


class Origin(Wire):
    """Which Checkpoint object made a save; stands in the manifest, so that a save can be recognised as one's own."""

    namespace: Text = ""
    name: Text = ""
    uid: Text = ""
    run_id: Text = ""

    def made(self, other: "Origin | None") -> bool:
        """Tell whether this very run made the save of that origin; a run without a uid can't be told from another."""
        return bool(self.uid) and other == self

    def __str__(self) -> str:
        """Return `namespace/name (uid ...)`, or a word for a save that no Checkpoint object made."""
        if not self.name:
            return "a save outside Kubernetes"
        run = f", run {self.run_id}" if self.run_id else ""
        return f"Checkpoint {self.namespace}/{self.name} (uid {self.uid}{run})"


class Versioned(Wire):
    """A message that says which version of the contract it is of; one that says none is of version 1."""

    contract_version: Int = CONTRACT_VERSION

    @model_serializer(mode="wrap")
    def _with_version(self, fields: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {"contractVersion": self.contract_version, **fields(self)}

    def of_its_version(self) -> Self:
        """Return a message that was read: with the version that it was written in."""
        return self if "contract_version" in self.model_fields_set else self.model_copy(update={"contract_version": 1})


class Task(Versioned):
    """Everything that one attempt needs to know; the same in each of its pods. Holds no secret."""

    operation: Operation
    origin: Origin
    attempt: int = Field(default=1, ge=1)
    storage: Storage
    workload: Workload | None = None
    parallelism: Parallelism = Parallelism()
    workers: Workers = Workers()
    load: LoadSelection = LoadSelection()
    active_seconds: int = Field(default=3600, ge=1)
    hang_seconds: float = Field(default=300, gt=0)
    """A rank without a heartbeat for this long counts as hung. Below active_seconds, so that it can be named."""
    probe: bool = False
    """Look only whether this origin's save is committed already; start no ranks. Set after a lost Report."""
    ignorable: list[str] = Field(default_factory=list)
    """Dotted JSON names of fields without which a worker that does not know them does what was asked for."""

    @classmethod
    def decode(cls, text: str) -> Self:
        """Return the Task that an operator of another version may have written.

        Raises:
            ValueError: In one line, what of it this worker can't do, and what to do then.
        """
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise ValueError(f"Invalid JSON: {error}") from error
        if not isinstance(fields, dict):
            raise ValueError("the Task is no JSON object")  # noqa: TRY004 - what its text says, not what it is
        version = fields.get("contractVersion", 1)
        if not isinstance(version, int) or abs(version - CONTRACT_VERSION) > 1:
            raise ValueError(
                f"the operator's Task has contract version {version}, and this worker image works with versions "
                f"{CONTRACT_VERSION - 1} to {CONTRACT_VERSION + 1}; use a worker image of the operator's release"
            )
        while True:
            try:
                return cls.model_validate_json(json.dumps(fields)).of_its_version()
            except ValidationError as error:
                problems = wire.without_ignorable(fields, error)
            if problems:
                raise ValueError(
                    f"{'; '.join(problems)} (the Task has contract version {version}, this worker image "
                    f"{CONTRACT_VERSION}); use a worker image of the operator's release, or drop it from the spec"
                )


class LoadSummary(Wire):
    """What a load made of the checkpoint's entries, over all ranks; an entry is one name of the state dict."""

    loaded: Int = 0
    left_out: Int = 0
    """Entries of the checkpoint that no rank asked for."""
    converted: Int = 0
    """Entries among the loaded whose values got another type."""


class CheckpointInfo(Wire):
    """What stands at the URL, as far as it is known. `bytes` counts data files; `createdTime` is UTC."""

    url: Text = ""
    save_id: Text = ""
    step: MaybeCount = None
    bytes: MaybeCount = None
    files: MaybeCount = None
    tensors: MaybeCount = None
    world_size: MaybeCount = None
    torch_version: Text = ""
    manifest_digest: Text = ""
    created_time: Time = None
    origin: Origin | None = None
    conflict_guard: Text = ""
    """`Atomic` where the store itself refuses a second commit, else `BestEffort`."""
    verified: Text = ""
    """After a Verify: what was checked, in words."""
    entries: LoadSummary | None = None
    """After a Load: how many entries were loaded, left out and converted."""


class Conflict(Wire):
    """Who holds the URL that a Save was refused."""

    # The order counts: where the time or the message of one that was cut has begun, what comes before it is whole.
    save_id: Text = ""
    origin: Origin | None = None
    created_time: Time = None
    message: Text = ""


class RankFailure(Wire):
    """Why one rank failed. `time` is seconds since the epoch, so that the first cause can be told from its echoes."""

    # The order counts: where the message of a Report that was cut has begun, what comes before it is whole.
    rank: MaybeInt = None
    """None for a failure of the launcher or of the preflight, before any rank ran."""
    reason: Reason
    time: Real = 0.0
    exit_code: MaybeInt = None
    """Negative for a signal: -9 is SIGKILL."""
    retriable: bool | None = None
    """Whether another attempt can help, where the reason is newer than an operator may be."""
    message: Text = ""
    stage: Text = ""
    traceback: Text = ""
    """The last lines only."""


class Report(Versioned):
    """What one pod's launcher has to say at its end. Only node 0's holds `checkpoint` and `conflict`."""

    # The order counts: a Report that the kubelet cut is read as far as it goes.
    node: Int = 0
    terminated: bool = False
    """The launcher was told to stop (SIGTERM): preemption, drain, suspend or deletion."""
    result: Reason | None = None
    """`Saved`, `Loaded` or `Verified`; None for a failed attempt."""
    conflict: Conflict | None = None
    failed_rank_count: Int = 0
    failures: list[RankFailure] = Field(default_factory=list)
    """By `Weight`, then by time: the first one alone would lead to the same decision."""
    checkpoint: CheckpointInfo | None = None
    warnings: list[Text] = Field(default_factory=list)
    """What did not change the result: replaced data that could not be removed, a store without an atomic refusal."""
    bytes_moved: Int = 0
    seconds: Real = 0.0

    def encode(self, limit: int = REPORT_LIMIT) -> str:
        """Return JSON of at most `limit` UTF-8 bytes, always whole; the least useful text goes first.

        Below 512 bytes it may be longer. Then it is cut, and still says how the attempt ended.
        """
        for report in _shorter(self):
            text = report.to_json()
            if len(text.encode()) <= limit:
                break
        return text

    @classmethod
    def decode(cls, text: str) -> Self | None:
        """Return the Report, one that was cut as far as it goes; None for an empty or foreign termination message."""
        try:
            # A worker image may be newer than the operator.
            return cls.model_validate_json(text, extra="ignore").of_its_version()
        except ValueError:
            told = wire.front(text)
        try:
            known = told and wire.with_known_reasons(told, _REASONS, Reason.RANK_FAILED)
            return cls.model_validate_json(json.dumps(known), extra="ignore").of_its_version() if known else None
        except ValueError:
            return None


class Progress(Wire):
    """Where a running attempt stands; decoration, which may get lost."""

    stage: Text = ""
    bytes: Int = 0
    total_bytes: Int = 0
    bytes_per_second: Real = 0.0
    ranks: Int = 0
    """Ranks that are still moving bytes."""
    time: Real = 0.0

    @property
    def percent(self) -> int:
        """Whole percent of the bytes moved, 0 where the total is not known yet."""
        return min(100, max(0, 100 * self.bytes // self.total_bytes)) if self.total_bytes else 0

    def to_line(self) -> str:
        """Return the line of rank 0's output that says so: JSON with one key."""
        return json.dumps({PROGRESS_KEY: self.to_dict()})

    @classmethod
    def of_line(cls, line: str) -> "Progress | None":
        """Return the Progress that a line of output is, or None for the workload's own output."""
        if not line.startswith("{") or PROGRESS_KEY not in line:
            return None
        try:
            message = json.loads(line)
            return cls.model_validate(message[PROGRESS_KEY]) if [*message] == [PROGRESS_KEY] else None
        except (ValueError, RecursionError):
            return None


_SHORTER: Final = ((16, 240, 800), (8, 160, 800), (4, 120, 600), (16, 80, 0), (4, 80, 0), (1, 120, 0), (1, 40, 0))
"""Failures kept, characters of a message (three times as many of the first), of the first one's traceback."""


def _shorter(report: Report) -> Iterator[Report]:
    """Yield versions of the report, each with less: echoes of the first cause go first, the result last."""
    count = max(report.failed_rank_count, len(report.failures))
    report = report.model_copy(update={"failed_rank_count": count, "failures": report.failures[:MAX_FAILED_RANKS]})
    yield report
    for keep, text, trace in _SHORTER:
        conflict = report.conflict
        if conflict is not None:
            conflict = conflict.model_copy(update={"message": _cut(conflict.message, 2 * text)})
        update = {
            "failures": [_shortened(each, index, text, trace) for index, each in enumerate(report.failures[:keep])],
            "conflict": conflict,
            "warnings": [_cut(warning, text) for warning in report.warnings[: max(1, keep // 4)]],
        }
        yield report.model_copy(update=update)
    last = report.model_copy(update=update | {"warnings": []})
    yield last
    if last.checkpoint is not None:
        # The operator knows the URL and the origin.
        yield last.model_copy(update={"checkpoint": last.checkpoint.model_copy(update={"url": "", "origin": None})})
    yield last.model_copy(update={"conflict": last.conflict and Conflict(), "checkpoint": None})


def _shortened(failure: RankFailure, index: int, text: int, trace: int) -> RankFailure:
    return failure.model_copy(
        update={
            "message": _cut(failure.message, text if index else 3 * text),
            "traceback": failure.traceback[-trace:] if trace and not index else "",
            "stage": _cut(failure.stage, 40),
        }
    )


def _encodable(text: str) -> str:
    return text.encode(errors="replace").decode()


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"
