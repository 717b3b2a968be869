"""What can go wrong in a rank beside the engine's own errors; the same kind of error, so that it travels the same way."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from dcp_worker.contract import Reason
from dcp_worker.engine.errors import EngineError, PeerHung, PeerLost, translate

TRACEBACK_LINES = 12


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
    if isinstance(raised, MemoryError) or type(raised).__name__ == "OutOfMemoryError":
        return OutOfMemory(text or "out of memory")
    if "DefaultCPUAllocator" in text and "not enough memory" in text:
        return OutOfMemory(text)
    if isinstance(raised, RuntimeError) and ("Timed out" in text or "timed out" in text or "Timeout" in text):
        return PeerHung(f"a collective timed out: {text[:300]}")
    if isinstance(raised, RuntimeError) and "gloo" in text:
        return PeerLost(f"lost another rank: {text[:300]}")
    return translate(raised)


def last_lines(raised: BaseException) -> str:
    """Return the end of a traceback, where the cause stands."""
    lines = "".join(traceback.format_exception(raised)).rstrip().splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:])
