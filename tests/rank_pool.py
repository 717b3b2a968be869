"""Ranks that stay: forked once, joined anew for every case, so that a case costs a fraction of a second.

Each runs the worker's own `Rank` from the Task on, as the launcher would have it run, without the launcher.
"""

import gc
import logging
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dcp_contract.task import Task
from dcp_worker.rank.result import Outcome
from dcp_worker.rank_context import Place
from rank_group import _CONTEXT, Result, _collect, values
from s3_server import free_port


class Pool:
    """Up to `size` ranks at a time."""

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self._pipes: list[Any] = []
        self._processes: list[Any] = []

    def work(self, task: Task, timeout: float = 60) -> list[Outcome]:
        """Run a Task in `task.workers.world_size` ranks and return how each ended."""
        found = self.call(task.workers.world_size, work, task, timeout=timeout)
        return [outcome for outcome in values(found) if isinstance(outcome, Outcome)]

    def call(self, world_size: int, program: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Result]:
        """Run `program(place, *args)` in each rank; what fails to end in time takes the whole pool with it."""
        if not self._processes:
            self._fork()
        port = free_port()
        places = [Place(rank, rank, world_size, world_size, 0, "127.0.0.1", port) for rank in range(world_size)]
        for place, pipe in zip(places, self._pipes, strict=False):
            pipe.send((dict(os.environ), program, place, args))
        try:
            results = _collect(self._pipes[:world_size], self._processes[:world_size], timeout, range(world_size))
        except BaseException:
            self.close()
            raise
        if any(result.exit_code or result.error for result in results):
            self.close()  # a peer may be left in a collective
        return results

    def close(self) -> None:
        """End every rank."""
        for process in self._processes:
            process.kill()
            process.join(10)
        self._pipes, self._processes = [], []

    def _fork(self) -> None:
        for _ in range(self.size):
            ours, theirs = _CONTEXT.Pipe()
            process = _CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)


@contextmanager
def running(size: int = 4) -> Iterator[Pool]:
    """Give a pool that is gone afterwards."""
    pool = Pool(size)
    try:
        yield pool
    finally:
        pool.close()


def work(place: Place, task: Task) -> Outcome:
    """Do a Task as a forked rank does it."""
    from dcp_worker.heartbeat import Slot
    from dcp_worker.rank.run import carried_out
    from dcp_worker.rank_context import RankContext

    return carried_out(RankContext(task, place, Slot()))


def joined(place: Place, program: Callable[..., Any], *args: Any) -> Any:
    """Run `program(rank, *args)` in a gloo group."""
    import torch.distributed as dist

    address = f"tcp://{place.master_addr}:{place.master_port}"
    dist.init_process_group("gloo", init_method=address, rank=place.rank, world_size=place.world_size)
    return program(place.rank, *args)


def _serve(pipe: Any) -> None:
    """Take one program after the other."""
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    gc.freeze()  # so that the collection between two cases looks at the case's own objects alone
    while True:
        try:
            environment, program, place, args = pipe.recv()
        except EOFError:
            return
        os.environ.clear()
        os.environ.update({**environment, **place.environment()})
        try:
            result = Result(program(place, *args))
        except BaseException as error:
            result = Result(error=error, traceback=traceback.format_exc())
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for package in ("dcp_engine", "dcp_worker"):
            logging.getLogger(package).handlers.clear()
        if dist.is_initialized():
            dist.destroy_process_group()
        gc.collect()
        pipe.send(result)
