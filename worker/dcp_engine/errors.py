"""What can go wrong with a checkpoint, in the words of the contract, and what the caller does next.

EngineError                   RankFailed            whatever nobody foresaw; the cause is chained
├── CheckpointExists          OverwriteConflict     read `.conflict`: who holds the URL
├── CheckpointNotFound        CheckpointNotFound    nothing is committed at the URL
├── CheckpointReplaced        CheckpointNotFound    another save replaced it under the load, twice; load again
├── SaveMismatch              SaveMismatch          another save stands there than was to be removed: read `.holder`
├── CheckpointCorrupted       CheckpointCorrupted   bytes are missing or changed; `.tensors` names what they hold
├── StateMismatch             StateMismatch         the state dict does not fit the checkpoint
├── UnsavableState            EntrypointError       take out of the state what `.faults` names
├── StorageUnavailable        StorageUnavailable    the store does not answer, or there is no such bucket; try again
├── ReplacedTooOften          StorageUnavailable    other savers replace the checkpoint all the time; try again
├── StorageDenied             StorageDenied         credentials or permissions
│   └── RefusedSignature      StorageDenied         a signed URL was refused; the store signs another
├── StorageFull               StorageFull           no space, quota
├── PeerLost                  WorkerLost            another rank went away; its own error says more
├── PeerHung                  RankHung              another rank did not answer in time; `.rank` names it
└── InvalidOption             InvalidSpec           a URL or an option that can't be

Foreign errors become these in `dcp_engine.translate`. A message stands at its raise; what several callers raise has a
class method here.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, get_args

from dcp_contract.checkpoint_info import Conflict
from dcp_contract.reasons import Reason
from dcp_engine import redact

_SHOWN: Final = 8
"""Tensor names in a message; the rest is a count."""


ALLOW: Final = "`allow`"
"""What messages call the argument that lists classes; a worker puts its spec's field in its place."""


def some(names: Iterable[str], shown: int = _SHOWN, *, separator: str = ", ") -> str:
    """Return the first names in order, and how many more there are."""
    listed = sorted(names)
    more = f" and {len(listed) - shown} more" if len(listed) > shown else ""
    return f"{separator.join(listed[:shown])}{more}"


class EngineError(Exception):
    """A save, load or verify failed. The same error is raised on every rank; `rank` is the one that failed first."""

    reason: ClassVar[Reason] = Reason.RANK_FAILED

    def __init__(self, message: str, *, rank: int | None = None) -> None:
        message = redact.mask(message)
        super().__init__(message)
        self.message = message
        self.rank = rank
        self.time = time.time()
        self.stage = ""
        self.traceback = ""
        self.conflict: Conflict | None = None
        self.commit_unknown = False
        """The save may be committed or not: nobody may remove its data."""
        self.failures: Sequence[EngineError] = ()
        """The errors of all ranks that failed, this one included, the first in time first."""

    def __str__(self) -> str:
        return self.message if self.rank is None else f"rank {self.rank}: {self.message}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _blank, (type(self), self.message), self.__dict__


def _blank(cls: type[EngineError], message: str) -> EngineError:
    """Make an error without its __init__; pickle fills in the fields. So every subclass crosses between ranks."""
    error = cls.__new__(cls)
    Exception.__init__(error, message)
    return error


class CheckpointExists(EngineError):
    """The URL holds a committed checkpoint and `overwrite` is false."""

    reason = Reason.OVERWRITE_CONFLICT

    def __init__(self, url: str, conflict: Conflict) -> None:
        made = f" on {conflict.created_time:%Y-%m-%d %H:%M:%S} UTC" if conflict.created_time else ""
        save = f"save {conflict.save_id} by {conflict.origin or 'an unknown saver'}" if conflict.save_id else "a save"
        save = conflict.message or save
        super().__init__(
            f"Checkpoint already exists at {url}: {save}{made}. Set overwrite to replace it, or save to another URL."
        )
        self.conflict = conflict.model_copy(update={"message": self.message})


class CheckpointNotFound(EngineError):
    """Nothing is committed at the URL."""

    reason = Reason.CHECKPOINT_NOT_FOUND

    def __init__(self, url: str, instead: str = "") -> None:
        super().__init__(f"No checkpoint is committed at {url} ({instead or 'there is no .metadata'}). Check the URL.")


class CheckpointReplaced(EngineError):
    """Another save replaced the checkpoint while it was being read."""

    reason = Reason.CHECKPOINT_NOT_FOUND

    def __init__(self, url: str, save_id: str) -> None:
        super().__init__(
            f"The checkpoint at {url} (save {save_id or 'by stock DCP'}) was replaced while it was being read. "
            "Load it again."
        )


class SaveMismatch(EngineError):
    """Another save stands at the URL than the one that was to be removed; nothing was."""

    reason = Reason.SAVE_MISMATCH

    def __init__(self, url: str, save_id: str, holder: Conflict, saved_by: str = "") -> None:
        found = f"save {holder.save_id}" if holder.save_id else "a save by stock DCP"
        named = save_id or (f"by the Checkpoint of uid {saved_by}" if saved_by else "by stock DCP")
        made = f" on {holder.created_time:%Y-%m-%d %H:%M:%S} UTC" if holder.created_time else ""
        super().__init__(
            f"{url} holds {found} by {holder.origin or 'an unknown saver'}{made}, and not the save that was to be "
            f"removed ({named}). Nothing was removed. To remove what stands there, name its save."
        )
        self.holder = holder
        """What stands there."""


class CheckpointCorrupted(EngineError):
    """Bytes of the checkpoint are missing or changed."""

    reason = Reason.CHECKPOINT_CORRUPTED

    def __init__(self, file: str, detail: str, tensors: Iterable[str] = ()) -> None:
        names = sorted(set(tensors))
        touched = f" It holds {some(names)}." if names else ""
        super().__init__(f"{file}: {detail}.{touched}")
        self.file = file
        self.tensors = names


class StateMismatch(EngineError):
    """The state dict asks for what the checkpoint does not hold, or holds in another shape."""

    reason = Reason.STATE_MISMATCH

    @classmethod
    def of_shape(cls, name: str, there: tuple[int, ...], wanted: tuple[int, ...]) -> Self:
        """Return the error for a tensor of another shape."""
        return cls(f"{name}: the checkpoint holds {there} where the state dict wants {wanted}")

    @classmethod
    def not_convertible(cls, types: Iterable[str]) -> Self:
        """Return the error for entries whose values have no meaning in the type that is asked for."""
        return cls(f"the checkpoint's values can't be converted: {some(types)}")

    @classmethod
    def of_settings(cls, name: str, kind: str, there: object, wanted: object) -> Self:
        """Return the error for a tensor of a class that notes more than values, and notes something else here."""
        return cls(f"{name}: the checkpoint holds a {kind} with {there} where the state dict has one with {wanted}")


class UnsavableState(EngineError):
    """The state dict holds what no load would give back as it was; nothing was saved."""

    reason = Reason.ENTRYPOINT_ERROR
    faults: Mapping[str, str] = MappingProxyType({})
    """Entries by name, each with the reason, where there is one for each."""

    @classmethod
    def of(cls, faults: Mapping[str, str]) -> Self:
        """Return the error that names every entry and why."""
        named = [f"{name} {why}" for name, why in faults.items()]
        made = cls(f"this state can't be saved: {some(named, separator='; ')}")
        made.faults = faults
        return made

    @classmethod
    def not_loadable(cls, faults: Mapping[str, str]) -> Self:
        """Return the error for objects of classes that a load refuses."""
        named = [f"{name} {why}" for name, why in faults.items()]
        made = cls(
            f"no load takes this without {ALLOW}: {some(named, separator='; ')}. Save numbers, text, tensors, and "
            f"lists and dicts of them, or list the classes in {ALLOW}, in the save and in every load."
        )
        made.faults = faults
        return made

    @classmethod
    def of_ranks(cls, first: "UnsavableState") -> "UnsavableState":
        """Return the error that names what any rank refused for the same reason: each has a part of the entries."""
        every = [each for each in first.failures if isinstance(each, UnsavableState) and each.faults]
        if not first.faults or len(every) <= 1:
            return first
        make = cls.not_loadable if first.message == cls.not_loadable(first.faults).message else cls.of
        made = make({name: why for each in every for name, why in each.faults.items()})
        made.__dict__ = first.__dict__ | {"message": made.message, "faults": made.faults}
        return made


class StorageUnavailable(EngineError):
    """The store can't be reached, does not answer, or has no such bucket."""

    reason = Reason.STORAGE_UNAVAILABLE


class StorageDenied(EngineError):
    """The store refuses the credentials or the operation."""

    reason = Reason.STORAGE_DENIED


class RefusedSignature(StorageDenied):
    """A signed URL was refused: it has expired, as the credentials that signed it may have, or counts for less."""


class StorageFull(EngineError):
    """The store has no room left."""

    reason = Reason.STORAGE_FULL


class PeerLost(EngineError):
    """Another rank went away in the middle of a collective."""

    reason = Reason.WORKER_LOST

    @classmethod
    def told_by(cls, error: BaseException) -> Self:
        """Return the error for what a collective says when a rank has died."""
        return cls(f"lost another rank: {' '.join(str(error).split())[:300]}")

    @classmethod
    def died(cls, ranks: Sequence[int], stage: str) -> Self:
        """Return the error that names the ranks that went away."""
        return cls(f"rank {', '.join(map(str, ranks[:_SHOWN]))} went away during {stage}", rank=ranks[0])


class PeerHung(EngineError):
    """Another rank did not come to a collective in time."""

    reason = Reason.RANK_HUNG

    @classmethod
    def missing(cls, ranks: Sequence[int], stage: str, seconds: float) -> Self:
        """Return the error that names the ranks that did not come."""
        names = ", ".join(map(str, ranks[:_SHOWN]))
        return cls(f"rank {names} did not finish {stage} within {seconds:g} s of the others", rank=ranks[0])


class InvalidOption(EngineError):
    """A URL or a storage option that can't be."""

    reason = Reason.INVALID_SPEC

    @classmethod
    def not_installed(cls, what: str, extra: str) -> Self:
        """Return the error for a library that is needed for little, and is not there."""
        return cls(f"{what} needs more than is installed: pip install 'dcp-operator[{extra}]'")

    @classmethod
    def none_of(cls, name: str, value: object, choices: object) -> Self:
        """Return the error for an option with another value than those of its Literal."""
        return cls(f"{name}: {value!r} is none of {', '.join(get_args(choices))}")


class ReplacedTooOften(EngineError):
    """Other savers with `overwrite` were faster every time."""

    reason = Reason.STORAGE_UNAVAILABLE

    def __init__(self, url: str, tries: int) -> None:
        super().__init__(f"{url}: other savers replaced the checkpoint {tries} times in a row; gave up")


class StaleVersion(Exception):
    """The object is not the version that a compare-and-swap expected."""

    @classmethod
    def of(cls, path: str) -> Self:
        """Return the signal for one path."""
        return cls(f"{path} changed since it was read")


class NotDurable(OSError):
    """A file has its name, and it is not known whether a power cut would take that back."""
