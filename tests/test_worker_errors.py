"""What a rank makes of an exception. Nothing here loads torch: its errors are known by name and by their words."""

import errno

import pytest

from dcp_contract.reasons import Reason
from dcp_engine.errors import EngineError, PeerLost, StorageFull
from dcp_worker.training.failures import WorkloadFailed, WorkloadRejected, explain, user_code


class DistError(RuntimeError):
    """Has the name of torch's."""


class DistStoreError(DistError):
    """As above."""


class DistBackendError(DistError):
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
    "memory of a device, as CUDA says it": (RuntimeError("CUDA error: out of memory"), Reason.OUT_OF_MEMORY),
    "memory of a device in a library": (
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        Reason.OUT_OF_MEMORY,
    ),
    "memory of a device in a collective": (
        DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error, NCCL version 2.27.5\n"
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'"
        ),
        Reason.OUT_OF_MEMORY,
    ),
    "memory in a collective": (
        RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:190] std::bad_alloc"),
        Reason.OUT_OF_MEMORY,
    ),
    "memory that data loaders share": (
        RuntimeError(
            "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's "
            "workers are out of shared memory. Please try to raise your shared memory limit."
        ),
        Reason.OUT_OF_MEMORY,
    ),
    "two ranks on one device": (
        DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:3356, invalid usage (run with NCCL_DEBUG=WARN for details)\n"
            "ncclInvalidUsage: This usually reflects invalid usage of NCCL library.\nLast error:\n"
            "Duplicate GPU detected : rank 1 and rank 0 both on CUDA device 1000"
        ),
        Reason.RANK_FAILED,
    ),
    "a device that failed": (
        DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled cuda error, NCCL version 2.27.5"),
        Reason.RANK_FAILED,
    ),
    "a type that no collective takes": (
        DistBackendError("Input tensor data type is not supported for NCCL process group: Short"),
        Reason.RANK_FAILED,
    ),
    "sizes that do not match": (
        RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:446] op.preamble.length <= op.nbytes. 8 vs 4"),
        Reason.RANK_FAILED,
    ),
    "a peer of NCCL's that went away": (
        DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:2356, remote process exited or there was a network error\n"
            "ncclRemoteError: A call failed possibly due to a network error or a remote process exiting prematurely."
        ),
        Reason.WORKER_LOST,
    ),
    "a connection of NCCL's that the kernel refuses": (
        DistBackendError(
            "NCCL error in: ProcessGroupNCCL.cpp:2356, unhandled system error, NCCL version 2.27.5\nncclSystemError: "
            "System call or external library call failed.\nLast error:\ncall to connect failed: Invalid argument"
        ),
        Reason.WORKER_LOST,
    ),
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
