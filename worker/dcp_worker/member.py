"""What crosses between a launcher and the ranks that it forks. Imports no torch, so that the launcher needs none."""

import ctypes
import gc
import io
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Final

from dcp_worker.contract import CheckpointInfo, Conflict, RankFailure, Reason
from dcp_worker.errors import in_spec_words

LAUNCHER_ENV: Final = "DCP_LAUNCHER"
"""The launcher's pid, for the server that forks the ranks: whether its parent is still the one that started it."""
TRACEBACK_CHARS: Final = 2000
_PR_SET_PDEATHSIG: Final = 1
_MAX_WARNINGS: Final = 8


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
    """How one rank ended; returned, never raised. Small enough for a pipe's buffer, so that sending never blocks."""

    rank: int
    result: Reason | None = None
    checkpoint: CheckpointInfo | None = None
    conflict: Conflict | None = None
    failures: tuple[RankFailure, ...] = ()
    """This rank's failure; after a collective engine call, those of all ranks, the first in time first."""
    failed_ranks: int = 0
    """How many ranks failed, where `failures` does not list them all."""
    warnings: tuple[str, ...] = ()
    bytes_moved: int = 0
    seconds: float = 0.0
    """Of the transfer alone."""


class Warnings(logging.Handler):
    """Keeps this package's warnings, which change no result and belong into the Report all the same."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        logging.getLogger("dcp_worker").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one, and print it as logging would without a handler."""
        text = in_spec_words(record.getMessage())
        print(f"warning: {text}", file=sys.stderr)  # noqa: T201 - the pod's log
        if text not in self.texts and len(self.texts) < _MAX_WARNINGS:
            self.texts.append(text)


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that forked it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def enter(
    task_json: str,
    place: Place,
    slots: Any,  # noqa: ANN401 - a ctypes array of Slot
    results: Connection,
    environment: Mapping[str, str],
) -> None:
    """Run one rank in this freshly forked process, send its Outcome, and end the process."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # What was loaded before the fork stays, in memory that all ranks share as long as nobody touches it.
    gc.freeze()
    gc.enable()
    # The forkserver is tied to the launcher, and each rank to the forkserver.
    die_with_parent()
    launcher = multiprocessing.parent_process()
    if launcher is None or not launcher.is_alive():
        os._exit(1)
    os.environ.clear()
    os.environ.update({**environment, **place.environment()})
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path not in sys.path]
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe Python would keep lines back, and a rank that is killed would take them with it.
        sys.stdout.reconfigure(line_buffering=True)
    results.send(_run(task_json, place, slots))
    results.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without a farewell: a peer may be dead, and an orderly end of the process group would wait for it.
    os._exit(0)


def _run(task_json: str, place: Place, slots: Any) -> Outcome:  # noqa: ANN401 - a ctypes array of Slot
    try:
        from dcp_worker import rank  # noqa: PLC0415 - torch; loaded before the fork, unless that failed

        return rank.run(task_json, place, slots[place.local_rank])
    except BaseException as error:  # noqa: BLE001 - what rank.run could not tell, such as a torch that does not import
        failure = RankFailure(
            rank=place.rank,
            reason=Reason.RANK_FAILED,
            message=f"{type(error).__name__}: {error}"[:1000],
            stage="loading torch",
            time=time.time(),
            traceback=traceback.format_exc()[-TRACEBACK_CHARS:],
        )
        return Outcome(place.rank, failures=(failure,))
