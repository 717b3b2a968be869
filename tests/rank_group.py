"""Real ranks for tests, joined over gloo: ranks that stay from case to case, or processes of a program's own."""

import os
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import rank_pool
from rank_processes import CONTEXT, Result, collect, values

__all__ = ["Result", "in_own_processes", "run_ranks", "values"]

_Program = TypeVar("_Program", bound=Callable[..., Any])


def run_ranks(
    world_size: int,
    program: Callable[..., Any],
    *args: Any,
    timeout: float = 120,
    ends: Sequence[int] | None = None,
    fresh: bool = False,
) -> list[Result]:
    """Run `program(rank, *args)` in every rank of a gloo group and return how each ended.

    The ranks are those of the pool, which stay. A program of `in_own_processes` gets processes that have run nothing
    else, and so does a test that asks for `fresh` ones. With `ends`, wait for those ranks only and kill the rest.

    A program is a function of a module; a test file is one, too. The caller's environment goes with it.
    """
    with tempfile.TemporaryDirectory() as folder:
        address = f"file://{Path(folder, 'store')}"
        if not fresh and ends is None and not getattr(program, "in_own_processes", False):
            return rank_pool.SHARED.call(world_size, _joined, address, world_size, program, *args, timeout=timeout)
        return _in_fresh_ranks(world_size, address, program, args, timeout, range(world_size) if ends is None else ends)


def in_own_processes(program: _Program) -> _Program:
    """Say of a program that it ends or hangs its process, or leaves something in it."""
    program.in_own_processes = True  # type: ignore[attr-defined]
    return program


def _joined(place: Any, address: str, world_size: int, program: Callable[..., Any], *args: Any) -> Any:
    for name in place.environment():
        os.environ.pop(name)  # a program of the engine's tests is told its rank as an argument
    return _in_group(place.rank, address, world_size, program, args)


def _in_group(rank: int, address: str, world_size: int, program: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    dist.barrier()  # a rank whose program ends at once must not leave while another one still connects
    return program(rank, *args)


def _in_fresh_ranks(
    world_size: int,
    address: str,
    program: Callable[..., Any],
    args: tuple[Any, ...],
    timeout: float,
    ends: Sequence[int],
) -> list[Result]:
    pipes, processes = [], []
    for rank in range(world_size):
        receiver, sender = CONTEXT.Pipe(duplex=False)
        process = CONTEXT.Process(
            target=_main, args=(sender, rank, world_size, address, dict(os.environ), program, args), daemon=True
        )
        process.start()
        sender.close()
        pipes.append(receiver)
        processes.append(process)
    try:
        return collect(pipes, processes, timeout, ends)
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
            process.join(10)


def _main(
    sender: Any,
    rank: int,
    world_size: int,
    address: str,
    environment: dict[str, str],
    program: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    import torch

    from dcp_worker.rank.process import die_with_parent

    die_with_parent()
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        result = Result(_in_group(rank, address, world_size, program, args))
    except BaseException as error:
        result = Result(error=error, traceback=traceback.format_exc())
    sender.send(result)
    sender.close()
    # Without a farewell: a peer may be dead, and a clean shutdown would wait for it.
    os._exit(0)
