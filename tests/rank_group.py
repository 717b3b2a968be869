"""Real ranks for tests: forked from one process that has imported torch, joined over gloo."""

import multiprocessing
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_PRELOADED = [
    "torch._dynamo",
    "torch.distributed.checkpoint",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
    "triton",
]
_OURS = ["dcp_engine.background", "dcp_engine.loading", "dcp_worker.launcher.main", "dcp_worker.rank.run"]
_CONTEXT.set_forkserver_preload([*_PRELOADED, *_OURS])


@dataclass(frozen=True)
class Result:
    """How one rank ended: what it returned, or what it raised, or the signal that killed it (negative)."""

    value: Any = None
    error: BaseException | None = None
    traceback: str = ""
    exit_code: int = 0


def run_ranks(
    world_size: int, program: Callable[..., Any], *args: Any, timeout: float = 120, ends: Sequence[int] | None = None
) -> list[Result]:
    """Run `program(rank, *args)` in every rank of a gloo group and return how each ended.

    With `ends`, wait for those ranks only and kill the rest.

    Programs live in importable modules, not in test files. The environment of the caller at this moment goes with them.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{Path(folder, 'store')}"
        pipes, processes = [], []
        for rank in range(world_size):
            receiver, sender = _CONTEXT.Pipe(duplex=False)
            process = _CONTEXT.Process(
                target=_main, args=(sender, rank, world_size, address, dict(os.environ), program, args), daemon=True
            )
            process.start()
            sender.close()
            pipes.append(receiver)
            processes.append(process)
        try:
            return _collect(pipes, processes, timeout, range(world_size) if ends is None else ends)
        finally:
            for process in processes:
                if process.is_alive():
                    process.kill()
                process.join(10)


def values(results: Sequence[Result]) -> list[Any]:
    """Return what the ranks returned; fail with the first traceback if one raised."""
    for rank, result in enumerate(results):
        assert result.error is None, f"rank {rank}:\n{result.traceback}"
        assert result.exit_code == 0, f"rank {rank} ended with {result.exit_code}"
    return [result.value for result in results]


def _collect(pipes: list[Connection], processes: list[Any], timeout: float, ends: Sequence[int]) -> list[Result]:
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


def _main(
    sender: Connection,
    rank: int,
    world_size: int,
    address: str,
    environment: dict[str, str],
    program: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    import torch
    import torch.distributed as dist

    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
        result = Result(program(rank, *args))
    except BaseException as error:
        result = Result(error=error, traceback=traceback.format_exc())
    sender.send(result)
    sender.close()
    # Without a farewell: a peer may be dead, and a clean shutdown would wait for it.
    os._exit(0)
