"""Where the texts stand that we match in the errors of torch, gloo, NCCL and the kernel, under each torch."""

import errno
import mmap
import os
import time
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from dcp_engine import torch_messages
from rank_group import in_own_processes, run_ranks, values

WORKER = Path(__file__).parent.parent / "worker"
PRIVATE_HERE = WORKER / "dcp_engine/torch_internals.py"

pytestmark = pytest.mark.tier("ranks")


@cache
def _libraries() -> tuple[Path, ...]:
    home = Path(torch.__file__).parent
    beside = [path for path in home.parent.glob("nvidia/**/libnccl.so*") if path.is_file()]
    return (*home.glob("lib/libtorch*.so"), *home.glob("lib/libc10*.so"), *beside)


def _stands_in_torch(text: str) -> bool:
    for path in _libraries():
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            if memory.find(text.encode()) >= 0:
                return True
    return False


IN_LIBRARIES = {
    "closed": "Connection closed by peer",
    "barrier": " failed to pass monitoredBarrier",
    "memory, CPU": "DefaultCPUAllocator: ",
    "memory, CUDA": "out of memory",
    "gloo": "gloo/transport/tcp/",
    "a type": "Invalid scalar type",
    "lengths": "op.preamble.length",
}


@pytest.mark.parametrize("text", IN_LIBRARIES.values(), ids=IN_LIBRARIES.keys())
def test_the_text_stands_in_torchs_libraries(text: str) -> None:
    assert _stands_in_torch(text)


@pytest.mark.skipif(not any("nccl" in path.name for path in _libraries()), reason="a torch without NCCL")
@pytest.mark.parametrize("text", ["NCCL", "invalid usage", "invalid argument"])
def test_the_text_stands_in_nccl(text: str) -> None:
    assert _stands_in_torch(text)


def test_the_kernel_says_what_we_match() -> None:
    assert os.strerror(errno.ECONNRESET) == torch_messages.CLOSED[1]
    assert os.strerror(errno.ENOMEM).lower() in torch_messages.NO_MEMORY


def _barrier_alone(rank: int) -> str:
    if rank:
        time.sleep(60)  # is ended once rank 0 has returned
    try:
        dist.monitored_barrier(timeout=timedelta(milliseconds=300), wait_all_ranks=True)
    except RuntimeError as error:
        return str(error)
    return ""


def test_the_barrier_names_the_ranks_that_did_not_come() -> None:
    said = run_ranks(3, _barrier_alone, ends=[0])[0].value
    found = torch_messages.ABSENT.search(said)
    assert found is not None, said
    assert found[1].replace(" ", "") == "1,2"


def _reduces_what_none_sends(rank: int) -> str:
    del rank
    try:
        dist.all_reduce(torch.zeros(2, dtype=torch.uint16))
    except RuntimeError as error:
        return str(error)
    return ""


def test_gloo_refuses_a_type_in_words_that_name_the_caller() -> None:
    for said in values(run_ranks(2, _reduces_what_none_sends)):
        assert any(mark in said.lower() for mark in torch_messages.OWN_FAULT), said


@in_own_processes
def _peer_dies(rank: int) -> str:
    if rank:
        os._exit(0)
    try:
        dist.recv(torch.zeros(1), 1)
    except RuntimeError as error:
        return str(error)
    return ""


def test_gloo_says_that_a_peer_closed_the_connection() -> None:
    [said, *_] = run_ranks(2, _peer_dies)
    assert any(mark in str(said.value) for mark in torch_messages.CLOSED), said


def test_an_allocation_that_fails_says_so() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert any(mark in str(raised.value).lower() for mark in torch_messages.NO_MEMORY)
