"""What can go wrong in a rank beside the engine's own errors, and the tables that know it.

These are EngineErrors, too, so that they cross between ranks and reach the pod's Report in the same way.
"""

import errno
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from dcp_contract.checkpoint_info import Conflict
from dcp_contract.reasons import Reason
from dcp_contract.storage_options import SPEC_NAMES
from dcp_engine import torch_messages
from dcp_engine.errors import ALLOW, EngineError, PeerHung, PeerLost
from dcp_engine.translate import translate

TRACEBACK_LINES: Final = 12
_LONGEST: Final = 300
"""Characters of a foreign error that are told."""


_OPTION: Final = re.compile(rf"\b({'|'.join(name for name, spelt in SPEC_NAMES.items() if name != spelt)})\b")


class Stopped(EngineError):
    """The launcher was told to stop. Raised where the engine can still clean up after itself."""

    reason = Reason.WORKER_LOST


class WorkloadFailed(EngineError):
    """The user's own code raised: mend the workload."""

    reason = Reason.ENTRYPOINT_ERROR


class WorkloadRejected(EngineError):
    """`UserWorkload.loaded` raised: what was loaded is not what the workload expects."""

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
    """Return any exception as an EngineError with its reason.

    Memory and collectives are asked for before the engine's tables; `dcp_engine.translate` tells why.
    """
    return translate(raised, first=(_of_memory, _of_collective))


def _of_memory(raised: BaseException, text: str) -> EngineError | None:
    """Return what a failed allocation is: on the host, on a device, or in a collective."""
    named = isinstance(raised, MemoryError) or type(raised).__name__ == "OutOfMemoryError"
    numbered = isinstance(raised, OSError) and raised.errno == errno.ENOMEM
    told = isinstance(raised, RuntimeError) and any(mark in text.lower() for mark in torch_messages.NO_MEMORY)
    return OutOfMemory(text[:_LONGEST] or "out of memory") if named or numbered or told else None


def _of_collective(raised: BaseException, text: str) -> EngineError | None:
    """Return what torch.distributed raised, whose errors are told by their words alone."""
    named = any(cls.__name__ == "DistError" for cls in type(raised).__mro__)
    told = isinstance(raised, RuntimeError) and any(word in text for word in torch_messages.COLLECTIVE)
    if not (named or told):
        return None
    words = text.lower()
    if any(mark in words for mark in torch_messages.OWN_FAULT):
        return EngineError(f"{type(raised).__name__}: {text[:_LONGEST]}")
    if "timed out" in words or "timeout" in words:
        return PeerHung(f"a collective timed out: {text[:_LONGEST]}")
    return PeerLost(f"lost another rank: {text[:_LONGEST]}")


def in_spec_words(text: str) -> str:
    """Return a message of the engine as it is for somebody who writes a spec and calls no function."""
    text = text.replace(ALLOW, "`spec.workload.allow`").replace("Set overwrite to", "Write save.ifExists: Replace to")
    text = text.replace("set read_only where", "write accessMode: ReadOnly (validate.readOnly of a Validate) where")
    return _OPTION.sub(lambda found: SPEC_NAMES[found[0]], text)


def conflict_in_spec_words(conflict: Conflict) -> Conflict:
    """Return who holds a URL, with the message as `in_spec_words` has it."""
    return conflict.model_copy(update={"message": in_spec_words(conflict.message)})


def last_lines(raised: BaseException) -> str:
    """Return the end of a traceback, where the cause stands."""
    lines = "".join(traceback.format_exception(raised)).rstrip().splitlines()
    return "\n".join(lines[-TRACEBACK_LINES:])
