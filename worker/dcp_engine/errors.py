"""What can go wrong with a checkpoint, in the words of the contract. Foreign errors are translated here and only here.

EngineError                   RankFailed            whatever nobody foresaw; the cause is chained
├── CheckpointExists          OverwriteConflict     read `.conflict`: who holds the URL
├── CheckpointNotFound        CheckpointNotFound    nothing is committed at the URL
├── CheckpointReplaced        CheckpointNotFound    another save replaced it under the load, twice; load again
├── CheckpointCorrupted       CheckpointCorrupted   bytes are missing or changed; `.tensors` names what they hold
├── StateMismatch             StateMismatch         the state dict does not fit the checkpoint
├── StorageUnavailable        StorageUnavailable    the store does not answer, or there is no such bucket; try again
├── StorageDenied             StorageDenied         credentials or permissions
├── StorageFull               StorageFull           no space, quota
├── PeerLost                  WorkerLost            another rank went away; its own error says more
├── PeerHung                  RankHung              another rank did not answer in time; `.rank` names it
└── InvalidOption             InvalidSpec           a URL or an option that can't be
"""

import errno
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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

    @classmethod
    def answered(cls, path: str, status: int, reason: str, text: str) -> Self:
        """Return the error for an HTTP answer that is not what was asked for."""
        return cls(_hinted(f"{path}: the store answered {status} {reason}: {redact.answer(text)}"))

    @classmethod
    def unanswered(cls, path: str, host: str, error: BaseException) -> Self:
        """Return the error for a request that got no answer, or a part of one."""
        return cls(f"{path}: no whole answer from {host}: {error or type(error).__name__}")

    @classmethod
    def broken_off(cls, path: str) -> Self:
        """Return the error for an answer that ended too early."""
        return cls(f"{path}: the connection ended in the middle of an answer")

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
    def nothing_chosen(cls, keys: Sequence[str], names: Iterable[str]) -> Self:
        """Return the error for keys of `read` that choose nothing."""
        parts = {name.partition(".")[0] for name in names}
        return cls(f"keys: nothing in the checkpoint is chosen by {some(keys)}; its parts are {some(parts)}")

    @classmethod
    def left_out(cls, names: Iterable[str]) -> Self:
        """Return the error for entries of an object that the checkpoint holds and the object's state dict does not."""
        return cls(
            f"the checkpoint holds {some(names)}, which the object to load does not ask for. "
            "A fresh optimizer has no state yet: torch's get_state_dict makes it. "
            "To leave entries out, pass the object's state_dict() in its place."
        )

    @classmethod
    def not_convertible(cls, types: Iterable[str]) -> Self:
        """Return the error for entries whose values have no meaning in the type that is asked for."""
        return cls(f"the checkpoint's values can't be converted: {some(types)}")

    @classmethod
    def not_of_type(cls, types: Iterable[str]) -> Self:
        """Return the error for entries of another type where conversions are refused."""
        return cls(f"the checkpoint holds other types, and convert is false: {some(types)}")

    @classmethod
    def out_of_range(cls, name: str, there: str, wanted: str, value: object) -> Self:
        """Return the error for a value that the type that is asked for does not have."""
        return cls(f"{name}: the checkpoint holds {value} as {there}, which {wanted} can't hold")

    @classmethod
    def of_settings(cls, name: str, kind: str, there: object, wanted: object) -> Self:
        """Return the error for a tensor of a class that notes more than values, and notes something else here."""
        return cls(f"{name}: the checkpoint holds a {kind} with {there} where the state dict has one with {wanted}")

    @classmethod
    def of_world(cls, key: str, saved: int, now: int) -> Self:
        """Return the error for values by rank that another number of ranks saved."""
        return cls(
            f"{key} was saved by {saved} ranks, a value for each; now there are {now}. Load it on {saved} ranks, leave "
            "it out, or let it stay as it is: dcp_engine.per_rank(..., resize='keep')."
        )

    @classmethod
    def not_per_rank(cls, key: str) -> Self:
        """Return the error for a value that is asked for by rank and was saved once for all."""
        return cls(f"{key} was saved once for all ranks, not by rank: ask for it without dcp_engine.per_rank")

    @classmethod
    def not_loadable(cls, faults: Mapping[str, str]) -> Self:
        """Return the error for tensors of the state dict that nothing can be loaded into."""
        named = [f"{name} {why}" for name, why in faults.items()]
        return cls(f"nothing can be loaded into this state: {some(named, separator='; ')}")

    @classmethod
    def not_asked(cls, names: Iterable[str]) -> Self:
        """Return the error for entries that a load of both sides finds in the checkpoint alone."""
        return cls(f"the checkpoint holds {some(names)}, which no rank asks for")

    @classmethod
    def not_allowed(cls, entries: Iterable[str], may_be_allowed: bool) -> Self:  # noqa: FBT001 - a property of the entries
        """Return the error for objects that the restricted unpickler refuses, each in words."""
        way_out = f" If you trust the checkpoint, pass the classes in {ALLOW}." if may_be_allowed else ""
        return cls(f"{some(entries, separator='; ')}: not on the allow-list.{way_out}")


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

    @classmethod
    def different(cls, entries: Iterable[str]) -> Self:
        """Return the error for objects that are not the same on all ranks that have them under one name."""
        return cls(
            f"ranks have different values under one name: {some(entries)}. One rank's would be kept for all. "
            "Wrap in dcp_engine.per_rank what belongs to a rank, or give the entry on one rank alone."
        )

    @classmethod
    def drifted(cls, entries: Iterable[str]) -> Self:
        """Return the error for replicas of a tensor that are not equal, where that is refused."""
        return cls(f"replicas differ between ranks, and drift is 'refuse': {some(entries)}")

    @classmethod
    def nested_per_rank(cls, names: Iterable[str]) -> Self:
        """Return the error for dcp_engine.per_rank further down in a state dict."""
        return cls(f"dcp_engine.per_rank stands at the top level of a state dict, not at {some(names)}")


class StorageUnavailable(EngineError):
    """The store can't be reached, does not answer, or has no such bucket."""

    reason = Reason.STORAGE_UNAVAILABLE

    @classmethod
    def other_range(cls, path: str, given: str, offset: int) -> Self:
        """Return the error for an answer that holds other bytes than were asked for, as some caches give."""
        return cls(f"{path}: the store answered with {given or 'an unnamed range'}, not with bytes from {offset} on")

    @classmethod
    def locked(cls, name: str, holders: Sequence[str], patience: float) -> Self:
        """Return the error for a file that can't be replaced, since others keep a lock; `holders` as far as known."""
        who = some(holders) if holders else "another process"
        return cls(
            f"{name}: {who} kept the lock for replacing it for {patience:g} s. Loads take no lock, a save for some "
            "milliseconds: end what locks the checkpoint's folder, as flock(1) does."
        )


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

    @classmethod
    def coordinator(cls, stage: str, seconds: float) -> Self:
        """Return the error for a rank 0 of which nothing was heard."""
        return cls(
            f"rank 0 said nothing about {stage} for more than {seconds:g} s; it hangs, or waits for another rank",
            rank=0,
        )


class InvalidOption(EngineError):
    """A URL or a storage option that can't be."""

    reason = Reason.INVALID_SPEC

    @classmethod
    def chained(cls, url: str) -> Self:
        """Return the error for an fsspec URL such as simplecache::s3://bucket/key."""
        return cls(f"{url}: chained URLs are not supported; give the store's own URL")

    @classmethod
    def unresolved(cls, url: str, resolved: str) -> Self:
        """Return the error for a URL whose path has a segment `.`, `..` or an empty one."""
        return cls(f"url: {url} has a segment '.', '..' or an empty one; write {resolved}")

    @classmethod
    def with_host(cls, url: str) -> Self:
        """Return the error for file://host/path."""
        return cls(f"{url}: a file URL has no host; write file:///path")

    @classmethod
    def unknown(cls, name: str, protocol: str, known: Iterable[str]) -> Self:
        """Return the error for an option that the protocol does not have."""
        return cls(f"storage option {name!r} is not known for {protocol}. Known: {', '.join(sorted(known)) or 'none'}.")

    @classmethod
    def wrapping(cls, what: str, error: BaseException) -> Self:
        """Return the error for what a library says of an option or URL."""
        return cls(f"{what}: {error}")

    @classmethod
    def not_installed(cls, what: str, extra: str) -> Self:
        """Return the error for a library that is needed for little, and is not there."""
        return cls(f"{what} needs more than is installed: pip install 'dcp-operator[{extra}]'")

    @classmethod
    def none_of(cls, name: str, value: object, choices: object) -> Self:
        """Return the error for an option with another value than those of its Literal."""
        return cls(f"{name}: {value!r} is none of {', '.join(get_args(choices))}")

    @classmethod
    def one_place(cls) -> Self:
        """Return the error for a reader or writer that is given no URL, or two."""
        return cls("write one of url and path, which is the same by stock DCP's name")

    @classmethod
    def without_collectives(cls) -> Self:
        """Return the error for dcp.save(use_collectives=False)."""
        return cls("use_collectives=False would commit each rank by itself; a checkpoint has one commit")

    @classmethod
    def kept_plan(cls) -> Self:
        """Return the error for a planner that gives the plan of an earlier save to bare dcp.save."""
        return cls(
            "this planner keeps the plans of earlier saves, which tell no rank where to write; use dcp_engine.save"
        )

    @classmethod
    def differs(cls, what: str, values: Sequence[object]) -> Self:
        """Return the error for what must be the same on every rank."""
        rank = next(rank for rank, value in enumerate(values) if value != values[0])
        return cls(f"{what} differs between ranks: {values[0]!r} on rank 0, {values[rank]!r} on rank {rank}")

    @classmethod
    def transformed(cls, name: str) -> Self:
        """Return the error for an entry that a stock writer passed through stream extensions."""
        return cls(f"{name} was saved through stream extensions, which are not known here")

    @classmethod
    def forked(cls) -> Self:
        """Return the error for a store that is used in a child whose parent used one before the fork."""
        return cls(
            "this process was forked after its parent used an object store, and the threads that make the requests "
            "did not come with it: start it with multiprocessing's spawn or forkserver"
        )

    @classmethod
    def forked_group(cls) -> Self:
        """Return the error for a process group that a child has from its parent."""
        return cls(
            "this process was forked from a rank, whose process group it can't use: start it with multiprocessing's "
            "spawn or forkserver, or say no_dist=True if it is by itself"
        )

    @classmethod
    def outside(cls, rank: int) -> Self:
        """Return the error for a rank that calls with a group that it is no member of."""
        return cls(f"process_group: rank {rank} is no member of it; only its members call save and load with it")

    @classmethod
    def no_group(cls, group: object) -> Self:
        """Return the error for what is no process group."""
        return cls(f"process_group: a {type(group).__name__} is no process group; make one by dist.new_group")

    @classmethod
    def not_joined(cls, world_size: str) -> Self:
        """Return the error for a rank of several that has not joined the others."""
        return cls(
            f"WORLD_SIZE is {world_size}, but there is no process group, and each rank would save by itself: call "
            "torch.distributed.init_process_group first, or say no_dist=True if this process is by itself"
        )

    @classmethod
    def panicked(cls, text: str) -> Self:
        """Return the error for a panic of the storage library: it takes no address, name or key that can't be one."""
        return cls(f"the storage library stopped over a URL, an option or a credential that can't be: {text}")

    @classmethod
    def faulty(cls, where: str, value: str, fault: str) -> Self:
        """Return the error for a value of an option or an environment variable; a secret one is not given."""
        return cls(f"{where}: {value!r} {fault}" if value else f"{where} {fault}")

    @classmethod
    def no_handler(cls) -> Self:
        """Return the error for a SIGTERM that can't be waited for."""
        return cls(
            "finish_on_sigterm: call it in the main thread, where SIGTERM has its default action or a Python handler"
        )


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

    @classmethod
    def of(cls, path: str, error: OSError) -> Self:
        """Return the signal for what the sync of a folder failed with."""
        return cls(error.errno, f"{error.strerror} (when its folder was synced)", path)


_HTTP_CAUSES: Final = {
    "TimedOut": "no answer in time",
    "IncompleteMessage": "the connection ended before the answer",
    "BadDigest": "what arrived is not what was sent, by its checksum",
    "InvalidCertificate": "the store's certificate is not trusted: put its authority into the Secret as ca.crt",
}
_CAUSE: Final = re.compile(rf'message: "([^"]+)"|\b({"|".join(_HTTP_CAUSES)})\b')
"""How the HTTP client inside obstore, or the store, names what went wrong."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})

_NO_BUCKET: Final = ("NoSuchBucket", "ContainerNotFound", "Account not found")

_TEXTS: Final[tuple[tuple[type[EngineError], tuple[str, ...]], ...]] = (
    (StorageFull, ("QuotaExceeded", "InsufficientStorage", "507 Insufficient", "StorageFull", "XMinioStorageFull")),
    (StorageUnavailable, ("BadDigest",)),
    (InvalidOption, ("x-amz-checksum-", "x-amz-sdk-checksum-")),
    (InvalidOption, ("PermanentRedirect", "AuthorizationHeaderMalformed", "redirect without LOCATION")),
    (
        StorageDenied,
        (
            "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken",
            "401 Unauthorized", "403 Forbidden", "Unable to locate credentials", "AuthenticationFailed",
            "Invalid Access Key", "GCP credential error", "RequestExpired", "TokenRefreshRequired",
            "/latest/api/token", "/latest/meta-data", "/metadata/identity/oauth2", "/computeMetadata/",
        ),
    ),
    (StorageUnavailable, _NO_BUCKET),
    (InvalidOption, ("Account must be specified", "Unable to recognise URL", "did not match any known pattern")),
)  # fmt: skip
"""What stores write into their answers, whichever library hands them on. The first match wins."""

_NO_CREDENTIALS: Final = "No credentials were found: set"
_HINTS: Final = {
    r"ExpiredToken|RequestExpired|TokenRefreshRequired|token (?:included in the request )?(?:is|has) expired": (
        "The credentials have expired: renew them."
    ),
    r"/latest/(?:api/token|meta-data)|Unable to locate credentials": (
        f"{_NO_CREDENTIALS} AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or anon for a bucket that is open to all. "
        "AWS_PROFILE and ~/.aws are not read."
    ),
    r"/metadata/identity/oauth2": f"{_NO_CREDENTIALS} AZURE_STORAGE_ACCOUNT_KEY, or what else Azure signs with.",
    r"metadata\.google\.internal|/computeMetadata/": (
        f"{_NO_CREDENTIALS} GOOGLE_SERVICE_ACCOUNT_KEY, or anon for a bucket that is open to all."
    ),
    r"x-amz-(?:sdk-)?checksum-": "If the store knows no such checksum, set the storage option upload_checksum to none.",
    r"PermanentRedirect|AuthorizationHeaderMalformed|redirect without LOCATION|IllegalLocationConstraint": (
        "The bucket is in another region: set the storage option region to that."
    ),
}
"""What a store's words, which stand first, mean to whoever reads them."""

_CLASSES: Final[dict[str, type[EngineError]]] = {
    "obstore.exceptions.PermissionDeniedError": StorageDenied,
    "obstore.exceptions.UnauthenticatedError": StorageDenied,
    "obstore.exceptions.UnknownConfigurationKeyError": InvalidOption,
    "obstore.exceptions.InvalidPathError": InvalidOption,
    "obstore.exceptions.BaseError": StorageUnavailable,
    "botocore.exceptions.NoCredentialsError": StorageDenied,
    "botocore.exceptions.PartialCredentialsError": StorageDenied,
    "botocore.exceptions.ParamValidationError": InvalidOption,
    "botocore.exceptions.BotoCoreError": StorageUnavailable,
    "botocore.exceptions.ClientError": StorageUnavailable,
    "aiohttp.client_exceptions.ClientError": StorageUnavailable,
    "torch.distributed.DistError": PeerLost,
    "http.client.HTTPException": StorageUnavailable,
    "builtins.PermissionError": StorageDenied,
    "builtins.ConnectionError": StorageUnavailable,
    "builtins.TimeoutError": StorageUnavailable,
}
"""Foreign class, by name so that none need be imported, to ours. The nearest ancestor in the table wins."""


def translate(exc: BaseException, *, url: str = "") -> EngineError:
    """Return `exc` as an EngineError with the cause chained; an EngineError comes back as it is.

    Unwraps torch's CheckpointException, which is no Exception and carries one error per failed rank.
    """
    if isinstance(exc, EngineError):
        return exc
    ranks = getattr(exc, "failures", None)
    if isinstance(ranks, dict) and ranks:
        return _first_of(ranks, url)
    text = _hinted(_text(exc))
    error = _by_errno(exc, text, url) or _by_text(text) or _by_class(exc, text) or _unforeseen(exc, text)
    error.__cause__ = exc
    return error


def _text(exc: BaseException) -> str:
    """Return what an error says, in one line. obstore's own sentence leaves out the cause; that is in its details."""
    sentence, _, details = str(exc).partition("\n\nDebug source")
    text = " ".join(sentence.split())
    causes = [message or _HTTP_CAUSES[kind] for message, kind in _CAUSE.findall(details)]
    return f"{text}: {causes[-1]}" if causes and causes[-1] not in text else text


def _hinted(text: str) -> str:
    """Return the text with what it means, where its own words leave that open."""
    hint = next((hint for words, hint in _HINTS.items() if re.search(words, text)), "")
    return f"{text}{'' if text.endswith('.') else '.'} {hint}" if hint and hint not in text else text


def is_missing_file(exc: BaseException) -> bool:
    """Tell a file that is not there from a whole bucket that is not: libraries raise FileNotFoundError for both."""
    return isinstance(exc, FileNotFoundError) and not is_missing_bucket(str(exc))


def is_bad_digest(exc: BaseException) -> bool:
    """Tell whether the store refused an upload because other bytes arrived than the checksum was made of."""
    return "BadDigest" in str(exc)


def is_missing_bucket(text: str) -> bool:
    """Tell whether a store's answer says that there is no such bucket, container or account."""
    return any(mark in text for mark in _NO_BUCKET)


def _first_of(ranks: dict[int, tuple[BaseException, Any]], url: str) -> EngineError:
    errors = []
    for rank, (cause, _) in ranks.items():
        error = translate(cause, url=url)
        error.rank = rank if error.rank is None else error.rank
        errors.append(error)
    errors.sort(key=lambda error: error.time)
    errors[0].failures = errors
    return errors[0]


def _by_errno(exc: BaseException, text: str, url: str) -> EngineError | None:
    if is_missing_file(exc):
        return CheckpointNotFound(url) if url else CheckpointCorrupted(text, "is missing")
    number = exc.errno if isinstance(exc, OSError) else None
    make: Callable[[str], EngineError] | None = None
    if number in _FULL:
        make = StorageFull
    elif number in _DENIED:
        make = StorageDenied
    elif number == errno.ENOTDIR:
        make = InvalidOption  # part of the path is a file
    return make(text) if make else None


def _by_text(text: str) -> EngineError | None:
    return next((cls(text) for cls, marks in _TEXTS if any(mark in text for mark in marks)), None)


def _by_class(exc: BaseException, text: str) -> EngineError | None:
    for cls in type(exc).__mro__:
        if ours := _CLASSES.get(f"{cls.__module__}.{cls.__qualname__}"):
            return ours(text or cls.__name__)
    return StorageUnavailable(text or type(exc).__name__) if isinstance(exc, OSError) else None


def _unforeseen(exc: BaseException, text: str) -> EngineError:
    if "Connection closed by peer" in text or "Connection reset by peer" in text:
        return PeerLost.told_by(exc)
    return EngineError(f"{type(exc).__name__}: {text}")
