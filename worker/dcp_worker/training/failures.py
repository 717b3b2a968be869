"""What can go wrong in a rank beside the engine's own errors; of the same kind, so that it travels the same way."""

import errno
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dcp_contract.reasons import Reason
from dcp_engine.errors import ALLOW, EngineError, PeerHung, PeerLost, translate

TRACEBACK_LINES = 12
_NO_MEMORY: Final = (
    "defaultcpuallocator",
    "out of memory",
    "out of shared memory",
    "cannot allocate memory",
    "bad_alloc",
    "status_alloc_failed",
)
"""What torch, CUDA, NCCL and gloo write where an allocation failed, in lower case."""
_OWN_FAULT: Final = (
    "ncclinvalidusage",
    ", invalid usage",
    "ncclinvalidargument",
    ", invalid argument",
    "unhandled cuda error",
    "duplicate gpu",
    "data type is not supported",
    "unsupported data type",
    "invalid scalar type",
    "op.preamble.length",
)
"""What a collective says of its caller, or of the caller's device, and not of another rank; in lower case. "Invalid
argument" and "not supported" alone are also what the kernel says of a connection."""


class WorkloadFailed(EngineError):
    """The user's own code raised: mend the workload."""

    reason = Reason.ENTRYPOINT_ERROR


class WorkloadRejected(EngineError):
    """`Workload.loaded` raised: what was loaded is not what the workload expects."""

    reason = Reason.STATE_MISMATCH


class DeviceUnavailable(EngineError):
    """The rank was promised a GPU and sees none."""

    reason = Reason.DEVICE_UNAVAILABLE


class OutOfMemory(EngineError):
    """An allocation failed, in host or device memory."""

    reason = Reason.OUT_OF_MEMORY


@contextmanager
def user_code(what: str, error: type[EngineError] = WorkloadFailed) -> Iterator[None]:
    """Run the user's code: what it raises becomes `error`, unless it is the echo of another rank's failure."""
    try:
        yield
    except EngineError:
        raise
    except (Exception, SystemExit) as raised:
        known = explain(raised)
        if isinstance(known, PeerLost | PeerHung | OutOfMemory):
            raise known from raised
        failed = error(f"{what} raised {type(raised).__name__}: {raised}".strip())
        failed.traceback = last_lines(raised)
        raise failed from raised


def explain(raised: BaseException) -> EngineError:
    """Return any exception as an EngineError with its reason."""
    text = " ".join(str(raised).split())
    short, words = text[:300], text.lower()
    if _is_memory(raised, words):
        return _caused(OutOfMemory(short or "out of memory"), raised)
    if not _is_collective(raised, text):
        return translate(raised)
    if any(mark in words for mark in _OWN_FAULT):
        return _caused(EngineError(f"{type(raised).__name__}: {short}"), raised)
    if "timed out" in words or "timeout" in words:
        return _caused(PeerHung(f"a collective timed out: {short}"), raised)
    return _caused(PeerLost(f"lost another rank: {short}"), raised)


def _is_memory(raised: BaseException, words: str) -> bool:
    if isinstance(raised, MemoryError) or type(raised).__name__ == "OutOfMemoryError":
        return True
    if isinstance(raised, OSError) and raised.errno == errno.ENOMEM:
        return True
    return isinstance(raised, RuntimeError) and any(mark in words for mark in _NO_MEMORY)


def _is_collective(raised: BaseException, text: str) -> bool:
    """Return whether torch.distributed raised this, whose errors are told by their words alone."""
    ours = any(cls.__name__ == "DistError" for cls in type(raised).__mro__)
    return ours or (isinstance(raised, RuntimeError) and any(word in text for word in ("gloo", "NCCL", "c10d")))


def in_spec_words(text: str) -> str:
    """Return a message of the engine as it is for somebody who writes a spec and calls no function."""
    return text.replace(ALLOW, "`spec.workload.allow`")


def _caused(error: EngineError, cause: BaseException) -> EngineError:
    error.__cause__ = cause
    return error


def last_lines(raised: BaseException) -> str:
    """Return the end of a traceback, where the cause stands."""
    lines = "".join(traceback.format_exception(raised)).rstrip().splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:])
