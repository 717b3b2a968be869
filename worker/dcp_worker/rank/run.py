"""One rank of an attempt: builds, shards, saves or loads, and returns an Outcome. It never raises.

Imported into the forkserver before the ranks are forked, so that torch is imported once per pod.
"""

import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Final

import torch
import torch.distributed as dist

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.operations import Operation
from dcp_contract.report import MAX_FAILED_RANKS, RankFailure
from dcp_contract.sections import Device
from dcp_contract.task import Task
from dcp_engine import loading as _preloaded  # noqa: F401 - in the forkserver, before the fork
from dcp_engine import saving as _preloaded_too  # noqa: F401
from dcp_engine import verification as _preloaded_as_well  # noqa: F401
from dcp_engine.errors import EngineError
from dcp_worker.operations import half_of
from dcp_worker.operations.built_workload import BuiltWorkload
from dcp_worker.rank.heartbeat import Pulse, Slot
from dcp_worker.rank.result import TRACEBACK_CHARS, Outcome, Place, Warnings
from dcp_worker.training.failures import (
    DeviceUnavailable,
    Stopped,
    conflict_in_spec_words,
    explain,
    in_spec_words,
    last_lines,
)

COLLECTIVE_SLACK_SECONDS: Final = 60
"""By this much a collective may outlast the attempt: the launcher, who sees which rank is waited for, ends it first."""
MESSAGE_CHARS: Final = 1000
_HALVES: Final = {operation: half_of(operation) for operation in Operation}
"""Loaded in the forkserver, before the fork."""


def run(task_json: str, place: Place, slot: Slot) -> Outcome:
    """Run one rank to its end; the process is the rank's own."""
    pulse = Pulse(slot)
    pulse.start()
    return Rank(Task.model_validate_json(task_json), place, pulse).run()


@dataclass
class Rank:
    """One rank's way through its Task: the `RankContext` of the operation that it carries out."""

    task: Task
    place: Place
    pulse: Pulse
    warnings: Warnings = field(default_factory=Warnings, init=False)
    stop_asked: bool = field(default=False, init=False)
    moved: int = field(default=0, init=False)
    seconds: float = field(default=0.0, init=False)
    """Of the last stage that moved bytes."""

    def run(self) -> Outcome:
        """Do the Task's operation; every failure is in the Outcome."""
        signal.signal(signal.SIGTERM, self._on_sigterm)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the launcher decides what a Ctrl-C means
        try:
            # Torch warns of its own internals, once per rank and place; on those a user can do nothing.
            warnings.filterwarnings("ignore", module=r"torch\.distributed")
            # FSDP1's own tensors warn of themselves at whoever reads an attribute of one.
            warnings.filterwarnings("ignore", r".*\bShardedTensor\b", FutureWarning)
            torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // self.place.local_world_size))
            return self._done(_HALVES[self.task.operation].run(self))
        except BaseException as raised:  # noqa: BLE001 - the launcher hears of everything
            self.ignore_stop()
            return self._failed(raised)

    @contextmanager
    def stage(self, name: str, *, transfers: bool = False) -> Iterator[None]:
        """Name what the rank does now, and time it if it moves bytes."""
        started = time.monotonic()
        with self.pulse.stage(name, transfers=transfers):
            yield
        if transfers:
            self.seconds = time.monotonic() - started

    def built(self, *, savable: bool = False, overwritten: bool = False) -> BuiltWorkload:
        """Join the other ranks and build the workload; collective."""
        return BuiltWorkload.build(self, self._join, savable=savable, overwritten=overwritten)

    def ignore_stop(self) -> None:
        """Let a SIGTERM change nothing any more."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def on_progress(self, done: int, total: int) -> None:
        """Note bytes; called from the engine's threads. Raising here fails the transfer, and the engine cleans up."""
        self.moved = done
        self.pulse.moved(done, total)
        if self.stop_asked:
            raise Stopped("the launcher was told to stop")

    def _join(self) -> torch.device:
        """Join the other ranks; return where the model is to live."""
        device = self._device()
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            init_method=f"tcp://{self.place.master_addr}:{self.place.master_port}",
            rank=self.place.rank,
            world_size=self.place.world_size,
            timeout=timedelta(seconds=self.task.active_seconds + COLLECTIVE_SLACK_SECONDS),
        )
        return device

    def _device(self) -> torch.device:
        wanted = self.task.workers.device
        if wanted is Device.CPU or (wanted is Device.AUTO and not torch.cuda.is_available()):
            return torch.device("cpu")
        found = torch.cuda.device_count()
        if self.place.local_rank >= found:
            raise DeviceUnavailable(
                f"device {wanted}: local rank {self.place.local_rank} needs a GPU of its own, and {found} are visible"
            )
        device = torch.device("cuda", self.place.local_rank)
        torch.cuda.set_device(device)
        return device

    def _done(self, info: CheckpointInfo) -> Outcome:
        return Outcome(
            self.place.rank,
            self.task.operation.traits.result,
            info,
            warnings=tuple(self.warnings.texts),
            bytes_moved=self.moved,
            seconds=self.seconds,
        )

    def _failed(self, raised: BaseException) -> Outcome:
        error = explain(raised)
        stage = self.pulse.name
        failed = error.failures or [error]
        return Outcome(
            self.place.rank,
            conflict=error.conflict and conflict_in_spec_words(error.conflict),
            failures=tuple(map(partial(self._failure, stage=stage), failed[:MAX_FAILED_RANKS])),
            failed_ranks=len(failed),
            warnings=tuple(self.warnings.texts),
            bytes_moved=self.moved,
        )

    def _failure(self, error: EngineError, stage: str) -> RankFailure:
        foreseen = type(error) is not EngineError
        return RankFailure(
            rank=self.place.rank if error.rank is None else error.rank,
            reason=error.reason,
            message=in_spec_words(error.message)[:MESSAGE_CHARS],
            stage=stage,
            time=error.time,
            traceback=(error.traceback if foreseen else error.traceback or last_lines(error))[-TRACEBACK_CHARS:],
        )

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Stop: at once, or during a transfer at its next bytes, so that a commit is never torn from its save."""
        del number, frame
        self.stop_asked = True
        if not self.pulse.transferring:
            raise Stopped("the launcher was told to stop")
