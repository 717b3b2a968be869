"""Processes that tests fork from one that has imported torch, and how what they ran ended."""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Final

CONTEXT: Final = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "triton",
]
_OURS = ["dcp_engine.background", "dcp_engine.loading", "dcp_worker.launcher.main", "dcp_worker.rank.run"]
CONTEXT.set_forkserver_preload([*_PRELOADED, *_OURS])


@dataclass(frozen=True)
class Result:
    """How one rank ended: what it returned, or what it raised, or the signal that killed it (negative)."""

    value: Any = None
    error: BaseException | None = None
    traceback: str = ""
    exit_code: int = 0
    left: tuple[str, ...] = ()
    """What the program left in a rank that stays, so that it can't take another one."""


def values(results: Sequence[Result]) -> list[Any]:
    """Return what the ranks returned; fail with the first traceback if one raised."""
    for rank, result in enumerate(results):
        assert result.error is None, f"rank {rank}:\n{result.traceback}"
        assert result.exit_code == 0, f"rank {rank} ended with {result.exit_code}"
    return [result.value for result in results]


def collect(pipes: Sequence[Connection], processes: Sequence[Any], timeout: float, ends: Sequence[int]) -> list[Result]:
    """Receive how the ranks `ends` ended, the others aside."""
    deadline = time.monotonic() + timeout
    results = [Result() for _ in pipes]
    waiting = set(ends)
    while waiting:
        ready = wait([pipes[rank] for rank in waiting], max(0, deadline - time.monotonic()))
        if not ready:
            raise RanksStuckError(sorted(waiting), timeout)
        for rank in [rank for rank in waiting if pipes[rank] in ready]:
            waiting.remove(rank)
            try:
                results[rank] = pipes[rank].recv()
            except EOFError:
                processes[rank].join(10)
                results[rank] = Result(exit_code=processes[rank].exitcode)
    return results


class RanksStuckError(Exception):
    """Ranks did not end in time."""

    def __init__(self, ranks: list[int], timeout: float) -> None:
        super().__init__(f"ranks {ranks} did not end within {timeout} s")
