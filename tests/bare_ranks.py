"""Ranks that load no torch, for tests of what a launcher makes of its processes, whatever they compute.

All else is a pod's own: the launcher, the server that forks the ranks, `enter`, the heartbeat. What a rank does is said
by `args` of the Task's workload: `how`, in the rank `rank` or in all; the others sleep.

    python bare_ranks.py    as `python -m dcp_worker`
"""

import ctypes
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_contract.task import Task
from dcp_worker import heartbeat
from dcp_worker.rank import process
from dcp_worker.rank.result import Outcome
from dcp_worker.rank_context import Place, RankContext


def enter(*arguments: Any) -> None:
    """Enter a rank as a pod does; `run` below stands for the module that loads torch."""
    sys.modules["dcp_worker.rank.run"] = sys.modules[__name__]
    process.enter(*arguments)


def run(task_json: str, place: Place, slot: heartbeat.Slot) -> Outcome:
    """Do what the workload's `args` say."""
    heartbeat.start(slot)
    rank = RankContext(Task.model_validate_json(task_json), place, slot)
    args = args_of(rank.task)
    how = args["how"] if args.get("rank") in {None, place.rank} else "sleep"
    if how == "raise":
        message = f"rank {place.rank} is not for you " + "\N{SNOWMAN}" * args["length"]
        failure = RankFailure(rank=place.rank, reason=Reason.ENTRYPOINT_ERROR, message=message, time=time.time())
        return Outcome(place.rank, failures=(failure,), failed_ranks=1)
    for step in range(1, 1_000_000):
        with rank.stage(f"step {step} of 1000000"):
            if step == 1:
                say(Path(args["folder"]), place.rank)
            act(how)
    raise AssertionError("no test waits this long")


def args_of(task: Task) -> dict[str, Any]:
    assert task.workload is not None
    return dict(task.workload.args)


def act(how: str) -> None:
    """Make a step."""
    if how == "step":
        time.sleep(0.05)
    elif how == "lock":
        ctypes.PyDLL(None).sleep(600)
    elif how == "child":
        # A process of the workload's own holds all that this rank has open, beyond the rank's end.
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    else:
        time.sleep(600)


def say(folder: Path, rank: int) -> None:
    """Leave this rank's pid where the test waits for it, whole from the first moment."""
    draft = folder / f".{os.getpid()}"
    draft.write_text(str(os.getpid()))
    draft.rename(folder / f"rank-{rank}")


if __name__ == "__main__":
    import bare_ranks
    from dcp_worker.launcher import main
    from dcp_worker.launcher.rank_processes import RankProcesses

    sys.exit(main.main(processes=RankProcesses(bare_ranks.enter, preload=())))
