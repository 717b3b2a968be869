"""One rank of an attempt: carries out its operation, and returns an Outcome. It never raises.

Imported into the forkserver before the ranks are forked, so that torch is imported once per pod.
"""

import os
import signal
import warnings
from typing import Final

import torch

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.operations import Operation
from dcp_contract.report import MAX_FAILED_RANKS, RankFailure
from dcp_contract.task import Task
from dcp_engine import loading as _preloaded  # noqa: F401 - in the forkserver, before the fork
from dcp_engine import saving as _preloaded_too  # noqa: F401
from dcp_engine import verification as _preloaded_as_well  # noqa: F401
from dcp_engine.errors import EngineError
from dcp_worker import heartbeat
from dcp_worker.operations import built_workload as _preloaded_besides  # noqa: F401
from dcp_worker.operations import half_of
from dcp_worker.rank.result import TRACEBACK_CHARS, Outcome, Warnings
from dcp_worker.rank_context import Place, RankContext
from dcp_worker.training.failures import conflict_in_spec_words, explain, in_spec_words, last_lines

MESSAGE_CHARS: Final = 1000
_HALVES: Final = {operation: half_of(operation) for operation in Operation}
"""Loaded in the forkserver, before the fork."""


def run(task_json: str, place: Place, slot: heartbeat.Slot) -> Outcome:
    """Run one rank to its end; the process is the rank's own."""
    heartbeat.start(slot)
    return carried_out(RankContext(Task.model_validate_json(task_json), place, slot))


def carried_out(rank: RankContext) -> Outcome:
    """Carry out the rank's operation; every failure is in the Outcome."""
    warned = Warnings()
    rank.heed_stop()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what a Ctrl-C means
    try:
        # Torch warns of its own internals, once per rank and place; on those a user can do nothing.
        warnings.filterwarnings("ignore", module=r"torch\.distributed")
        # FSDP1's own tensors warn of themselves at whoever reads an attribute of one.
        warnings.filterwarnings("ignore", r".*\bShardedTensor\b", FutureWarning)
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // rank.place.local_world_size))
        return _done(rank, _HALVES[rank.task.operation].run(rank), warned)
    except BaseException as raised:  # noqa: BLE001 - the launcher hears of everything
        rank.ignore_stop()
        return _failed(rank, raised, warned)


def _done(rank: RankContext, info: CheckpointInfo, warned: Warnings) -> Outcome:
    return Outcome(
        rank.place.rank,
        rank.task.operation.traits.result,
        info,
        warnings=tuple(warned.texts),
        bytes_moved=rank.bytes_moved,
        seconds=rank.seconds,
    )


def _failed(rank: RankContext, raised: BaseException, warned: Warnings) -> Outcome:
    error = explain(raised)
    stage = rank.stage_name
    failed = error.failures or [error]
    return Outcome(
        rank.place.rank,
        conflict=error.conflict and conflict_in_spec_words(error.conflict),
        failures=tuple(_failure(each, rank.place.rank, stage) for each in failed[:MAX_FAILED_RANKS]),
        failed_ranks=len(failed),
        warnings=tuple(warned.texts),
        bytes_moved=rank.bytes_moved,
    )


def _failure(error: EngineError, rank: int, stage: str) -> RankFailure:
    """Return an error as the Report has it; one that says no rank is this rank's own."""
    foreseen = type(error) is not EngineError
    return RankFailure(
        rank=rank if error.rank is None else error.rank,
        reason=error.reason,
        message=in_spec_words(error.message)[:MESSAGE_CHARS],
        stage=stage,
        time=error.time,
        traceback=(error.traceback if foreseen else error.traceback or last_lines(error))[-TRACEBACK_CHARS:],
    )
