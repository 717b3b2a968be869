"""Foreign errors, as obstore, botocore, aiohttp, torch and the OS raise them, become EngineErrors here and only here.

The tables are asked in this order, and the first that knows the error answers:

1. what is an EngineError already, or carries one error per rank: it says more than any table;
2. the caller's own tables, `first`: a rank's process asks for memory, then for collectives
   (`dcp_worker.training.failures`). Both come before storage: torch raises OSErrors and RuntimeErrors for all three,
   and "Connection reset" over a collective is a lost rank where over a store it is an outage;
3. the number of an OSError: the kernel's own word;
4. the text: stores write their codes into it, whichever library hands them on;
5. the class, or its nearest ancestor in the table: the least that is known.

What no table knows is an EngineError that names the foreign class.
"""

import errno
import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias

from dcp_engine import torch_messages
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointNotFound,
    EngineError,
    InvalidOption,
    PeerLost,
    StorageDenied,
    StorageFull,
    StorageUnavailable,
)

Table: TypeAlias = Callable[[BaseException, str], EngineError | None]
"""Returns what a foreign error with a text is in our words; None if the table does not know it."""

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


def translate(exc: BaseException, *, url: str = "", first: Sequence[Table] = ()) -> EngineError:
    """Return `exc` as an EngineError with the cause chained; an EngineError comes back as it is.

    Unwraps torch's CheckpointException, which is no Exception and carries one error per failed rank.

    Args:
        exc: What was raised.
        url: The checkpoint's URL, if a missing file means that there is no checkpoint.
        first: Tables that are asked before those of storage, in this order.
    """
    if isinstance(exc, EngineError):
        return exc
    ranks = getattr(exc, "failures", None)
    if isinstance(ranks, dict) and ranks:
        return _first_of(ranks, url, first)
    text = with_hint(_text(exc))
    tables: tuple[Table, ...] = (*first, partial(_by_errno, url=url), _by_text, _by_class)
    known = (table(exc, text) for table in tables)
    error = next((each for each in known if each is not None), None) or _unforeseen(exc, text)
    error.__cause__ = exc
    return error


def _text(exc: BaseException) -> str:
    """Return what an error says, in one line. obstore's own sentence leaves out the cause; that is in its details."""
    sentence, _, details = str(exc).partition("\n\nDebug source")
    text = " ".join(sentence.split())
    causes = [message or _HTTP_CAUSES[kind] for message, kind in _CAUSE.findall(details)]
    return f"{text}: {causes[-1]}" if causes and causes[-1] not in text else text


def with_hint(text: str) -> str:
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


def _first_of(ranks: dict[int, tuple[BaseException, Any]], url: str, first: Sequence[Table]) -> EngineError:
    errors = []
    for rank, (cause, _) in ranks.items():
        error = translate(cause, url=url, first=first)
        error.rank = rank if error.rank is None else error.rank
        errors.append(error)
    errors.sort(key=lambda error: error.time)
    errors[0].failures = errors
    return errors[0]


def _by_errno(exc: BaseException, text: str, *, url: str) -> EngineError | None:
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


def _by_text(_: BaseException, text: str) -> EngineError | None:
    return next((cls(text) for cls, marks in _TEXTS if any(mark in text for mark in marks)), None)


def _by_class(exc: BaseException, text: str) -> EngineError | None:
    for cls in type(exc).__mro__:
        if ours := _CLASSES.get(f"{cls.__module__}.{cls.__qualname__}"):
            return ours(text or cls.__name__)
    return StorageUnavailable(text or type(exc).__name__) if isinstance(exc, OSError) else None


def _unforeseen(exc: BaseException, text: str) -> EngineError:
    if any(mark in text for mark in torch_messages.CLOSED):
        return PeerLost.told_by(exc)
    return EngineError(f"{type(exc).__name__}: {text}")
