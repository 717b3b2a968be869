"""Ranks that stay: forked once, joined anew for every case, so that a case costs a fraction of a second.

A rank that may not be as it was takes no other case: the pool ends all its ranks then, and forks others for the next.
"""

import gc
import os
import traceback
from collections.abc import Callable
from typing import Any, Final

from dcp_contract.task import Task
from dcp_worker.rank.result import Outcome
from dcp_worker.rank_context import Place
from free_ports import free_port
from rank_processes import CONTEXT, RanksStuckError, Result, collect, values
from rank_state import RankState

_SECONDS_TO_RESTORE: Final = 20
SHOW_ENV: Final = "DCP_TEST_RANKS"
"""Where it is set, what costs the pool its ranks is printed: `DCP_TEST_RANKS=1 pytest -s`."""


class Pool:
    """Ranks, as many as the largest case so far took."""

    def __init__(self) -> None:
        self._pipes: list[Any] = []
        self._processes: list[Any] = []

    def work(self, task: Task, timeout: float = 60) -> list[Outcome]:
        """Run a Task in `task.workers.world_size` ranks and return how each ended."""
        found = self.call(task.workers.world_size, work, task, timeout=timeout)
        return [outcome for outcome in values(found) if isinstance(outcome, Outcome)]

    def call(self, world_size: int, program: Callable[..., Any], *args: Any, timeout: float = 60) -> list[Result]:
        """Run `program(place, *args)` in each rank; what fails to end in time takes the whole pool with it."""
        while len(self._processes) < world_size:
            self._fork()
        pipes, processes, ranks = self._pipes[:world_size], self._processes[:world_size], range(world_size)
        port = free_port()
        try:
            for rank, pipe in enumerate(pipes):
                place = Place(rank, rank, world_size, world_size, 0, "127.0.0.1", port)
                pipe.send((dict(os.environ), program, place, args))
            results = collect(pipes, processes, timeout, ranks)
        except BaseException:
            self.close()
            raise
        if doubts := _doubts(results, processes) or self._left(pipes, processes):
            if os.environ.get(SHOW_ENV):
                print(f"the pool ends its ranks after {program.__name__}{args}: {doubts}")
            self.close()
        return results

    def close(self) -> None:
        """End every rank."""
        for process in self._processes:
            process.kill()
        for process, pipe in zip(self._processes, self._pipes, strict=True):
            process.join(10)
            pipe.close()
        self._pipes, self._processes = [], []

    def _fork(self) -> None:
        ours, theirs = CONTEXT.Pipe()
        process = CONTEXT.Process(target=_serve, args=(theirs,), daemon=True)
        process.start()
        theirs.close()
        self._pipes.append(ours)
        self._processes.append(process)

    @staticmethod
    def _left(pipes: list[Any], processes: list[Any]) -> list[str]:
        """Return what the ranks could not set back; a rank that does not say so in time, or is gone, is one more."""
        try:
            said = collect(pipes, processes, _SECONDS_TO_RESTORE, range(len(pipes)))
        except RanksStuckError as error:
            return [str(error)]
        return [each for one in said for each in one.left] or _gone(processes)


SHARED: Final = Pool()
"""The ranks of this process, for all its tests."""


def _doubts(results: list[Result], processes: list[Any]) -> list[str]:
    """Return which ranks are gone, or else the errors after which one may not be whole: the engine's own cost no rank,
    but those of a lost peer do."""
    from dcp_engine.errors import EngineError, PeerHung, PeerLost

    if gone := _gone(processes):
        return gone
    errors = [result.error for result in results if result.error]
    whole = [each for each in errors if isinstance(each, EngineError) and not isinstance(each, PeerHung | PeerLost)]
    return [type(each).__name__ for each in errors if each not in whole]


def _gone(processes: list[Any]) -> list[str]:
    return [f"the end of rank {rank}" for rank, process in enumerate(processes) if not process.is_alive()]


def work(place: Place, task: Task) -> Outcome:
    """Do a Task as a forked rank does it: by the worker's own `carried_out`, as the launcher would have it run."""
    from dcp_worker.heartbeat import Slot
    from dcp_worker.rank.run import carried_out
    from dcp_worker.rank_context import RankContext

    return carried_out(RankContext(task, place, Slot()))


def joined(place: Place, program: Callable[..., Any], *args: Any) -> Any:
    """Run `program(rank, *args)` in a gloo group."""
    import torch.distributed as dist

    address = f"tcp://{place.master_addr}:{place.master_port}"
    dist.init_process_group("gloo", init_method=address, rank=place.rank, world_size=place.world_size)
    dist.barrier()  # a rank whose program ends at once must not leave while another one still connects
    return program(place.rank, *args)


def _serve(pipe: Any) -> None:
    """Take one program after the other; say how it ended, then what it left."""
    import torch

    from dcp_worker.rank.process import die_with_parent

    die_with_parent()
    torch.set_num_threads(1)
    state = RankState()
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
        pipe.send(result)
        del program, args, result
        pipe.send(Result(left=state.restore()))
