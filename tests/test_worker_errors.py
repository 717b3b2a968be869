"""What a rank makes of an exception. Nothing here loads torch: its errors are known by name and by their words."""

import errno

import pytest

from dcp_worker.contract import Reason
from dcp_worker.engine.errors import EngineError, PeerLost, StorageFull
from dcp_worker.errors import WorkloadFailed, WorkloadRejected, explain, user_code


class DistError(RuntimeError):
    """Has the name of torch's."""


class DistStoreError(DistError):
    """As above."""


class OutOfMemoryError(RuntimeError):
    """As above."""


CASES = {
    "memory": (MemoryError(), Reason.OUT_OF_MEMORY),
    "memory of a device": (OutOfMemoryError("CUDA out of memory"), Reason.OUT_OF_MEMORY),
    "memory of torch's allocator": (
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        Reason.OUT_OF_MEMORY,
    ),
    "memory that can't be mapped": (OSError(errno.ENOMEM, "Cannot allocate memory"), Reason.OUT_OF_MEMORY),
    "a peer that went away": (
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"),
        Reason.WORKER_LOST,
    ),
    "a peer that does not come": (
        RuntimeError("[../third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1000ms"),
        Reason.RANK_HUNG,
    ),
    "a peer that does not join": (DistStoreError("Timed out after 3 seconds waiting for clients"), Reason.RANK_HUNG),
    "a store that is gone": (DistError("Broken pipe"), Reason.WORKER_LOST),
    "a timeout of something else": (RuntimeError("Timeout: the data set's server"), Reason.RANK_FAILED),
    "no space": (OSError(errno.ENOSPC, "No space left on device"), Reason.STORAGE_FULL),
    "anything else": (ZeroDivisionError("division by zero"), Reason.RANK_FAILED),
}


@pytest.mark.parametrize(("raised", "reason"), CASES.values(), ids=CASES)
def test_explain(raised: BaseException, reason: Reason) -> None:
    error = explain(raised)
    assert error.reason is reason
    assert error.__cause__ is raised


@pytest.mark.parametrize(
    ("raised", "kind", "text"),
    [
        (KeyError("loss"), WorkloadFailed, "step() raised KeyError: 'loss'"),
        (SystemExit(3), WorkloadFailed, "step() raised SystemExit: 3"),
        (StorageFull("no room"), StorageFull, "no room"),
        (RuntimeError("gloo: Connection closed by peer"), PeerLost, "lost another rank"),
    ],
    ids=["an exception", "an exit", "an engine's error stays", "an echo stays one"],
)
def test_what_the_users_code_raises(raised: BaseException, kind: type[EngineError], text: str) -> None:
    with pytest.raises(kind) as caught, user_code("step()"):
        raise raised
    assert text in caught.value.message
    if kind is WorkloadFailed:
        assert caught.value.traceback.splitlines()[-1].startswith(type(raised).__name__)


def test_a_check_of_the_users_is_a_mismatch() -> None:
    with pytest.raises(WorkloadRejected) as caught, user_code("loaded()", WorkloadRejected):
        raise AssertionError("the loss is not what it was")
    assert caught.value.reason is Reason.STATE_MISMATCH
