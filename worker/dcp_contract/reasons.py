"""Why a Checkpoint stands where it stands, and which of an attempt's failures is its cause."""

from enum import IntEnum, StrEnum
from typing import Final


class Reason(StrEnum):
    """Why a Checkpoint stands where it stands: stable words, the vocabulary of conditions and of failures."""

    SAVED = "Saved"
    ALREADY_SAVED = "AlreadySaved"
    LOADED = "Loaded"
    VERIFIED = "Verified"
    DELETED = "Deleted"
    COPIED = "Copied"
    VALIDATED = "Validated"
    EXPORTED = "Exported"
    CLEANED = "Cleaned"
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
    SAVE_MISMATCH = "SaveMismatch"
    SUSPENDED = "Suspended"
    QUEUED = "Queued"
    DEVICE_UNAVAILABLE = "DeviceUnavailable"
    URL_IN_USE = "UrlInUse"
    SERIES_NOT_FOUND = "SeriesNotFound"
    NOTHING_SAVED = "NothingSaved"
    STORE_NOT_FOUND = "StoreNotFound"
    STORE_NOT_AVAILABLE = "StoreNotAvailable"
    STORE_READ_ONLY = "StoreReadOnly"
    NOT_ENABLED = "NotEnabled"
    FORBIDDEN = "Forbidden"
    TARGET_NOT_FOUND = "TargetNotFound"
    TARGET_NOT_LISTENING = "TargetNotListening"
    TARGET_AMBIGUOUS = "TargetAmbiguous"
    TARGET_REFUSED = "TargetRefused"
    TARGET_ENDED = "TargetEnded"


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
