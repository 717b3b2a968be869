"""What crosses between a launcher and the ranks that it forks. Imports no torch, so that the launcher needs none."""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from dcp_worker.contract import CheckpointInfo, Conflict, RankFailure, Reason

_PR_SET_PDEATHSIG: Final = 1


@dataclass(frozen=True)
class Place:
    """Where a rank stands among the others, in torchrun's words."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int
    node: int
    master_addr: str
    master_port: int

    def environment(self) -> dict[str, str]:
        """Return what a workload written for torchrun looks for."""
        return {
            "RANK": str(self.rank),
            "LOCAL_RANK": str(self.local_rank),
            "WORLD_SIZE": str(self.world_size),
            "LOCAL_WORLD_SIZE": str(self.local_world_size),
            "GROUP_RANK": str(self.node),
            "MASTER_ADDR": self.master_addr,
            "MASTER_PORT": str(self.master_port),
        }


@dataclass(frozen=True)
class Outcome:
    """How one rank ended; it is returned, never raised."""

    rank: int
    result: Reason | None = None
    checkpoint: CheckpointInfo | None = None
    conflict: Conflict | None = None
    failures: tuple[RankFailure, ...] = ()
    """This rank's failure; after a collective engine call, those of all ranks."""
    bytes_moved: int = 0
    seconds: float = 0.0
    """Of the transfer alone."""


def enter(
    task_json: str,
    place: Place,
    slots: Any,  # noqa: ANN401 - a ctypes array of Slot
    results: Connection,
    environment: Mapping[str, str],
) -> None:
    """Run one rank in this freshly forked process, send its Outcome, and end the process."""
    # Ranks must not outlive their launcher: the forkserver ends with it, and this process with the forkserver.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update({**environment, **place.environment()})
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    from dcp_worker import rank  # noqa: PLC0415 - torch; loaded before the fork

    results.send(rank.run(task_json, place, slots[place.local_rank]))
    results.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without a farewell: a peer may be dead, and an orderly end of the process group would wait for it.
    os._exit(0)
