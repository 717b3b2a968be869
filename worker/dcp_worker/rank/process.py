"""The process of one rank: how it starts, and how it ends with its launcher. Imports no torch before the fork."""

import ctypes
import gc
import io
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any, Final

from dcp_contract.environment import WORKLOAD_PATH_ENV
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_worker.rank.result import TRACEBACK_CHARS, Outcome
from dcp_worker.rank_context import Place

LAUNCHER_ENV: Final = "DCP_LAUNCHER"
"""The launcher's pid, for the server that forks the ranks: whether its parent is still the one that started it."""
_PR_SET_PDEATHSIG: Final = 1


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
    sys.path[:] = import_path(sys.path, environment)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Into a pipe Python would keep lines back, and a rank that is killed would take them with it.
        sys.stdout.reconfigure(line_buffering=True)
    results.send(_run(task_json, place, slots))
    results.close()
    sys.stdout.flush()
    sys.stderr.flush()
    # Without a farewell: a peer may be dead, and an orderly end of the process group would wait for it.
    os._exit(0)


def import_path(known: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """Return the folders in which a rank looks for modules.

    Those of PYTHONPATH come first. Those of WORKLOAD_PATH_ENV come last: whatever lies beside a manifest, no file there
    takes the place of a module of the standard library or of an installed package.
    """

    def folders(name: str) -> list[str]:
        return [each for each in environment.get(name, "").split(os.pathsep) if each and each not in known]

    return [*folders("PYTHONPATH"), *known, *folders(WORKLOAD_PATH_ENV)]


def _run(task_json: str, place: Place, slots: Any) -> Outcome:  # noqa: ANN401 - a ctypes array of Slot
    try:
        from dcp_worker.rank import run  # noqa: PLC0415 - torch; loaded before the fork, unless that failed

        return run.run(task_json, place, slots[place.local_rank])
    except BaseException as error:  # noqa: BLE001 - what run.run could not tell, such as a torch that does not import
        failure = RankFailure(
            rank=place.rank,
            reason=Reason.RANK_FAILED,
            message=f"{type(error).__name__}: {error}"[:1000],
            stage="loading torch",
            time=time.time(),
            traceback=traceback.format_exc()[-TRACEBACK_CHARS:],
        )
        return Outcome(place.rank, failures=(failure,))
