"""One rank of an attempt: builds, shards, saves or loads, and returns an Outcome. It never raises.

Imported into the forkserver before the ranks are forked, so that torch is imported once per pod.
"""

import os
import random
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from types import FrameType
from typing import Any, Final

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.stateful import Stateful

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.reasons import Reason
from dcp_contract.report import MAX_FAILED_RANKS, RankFailure
from dcp_contract.sections import Device, LoadSelection, Operation, Strategy
from dcp_contract.sections import Workload as WorkloadSpec
from dcp_contract.task import Task
from dcp_engine import api as _preloaded  # noqa: F401 - in the forkserver, before the fork
from dcp_engine import verification as _preloaded_too  # noqa: F401
from dcp_engine.errors import EngineError
from dcp_worker.operations import load_planner
from dcp_worker.rank.heartbeat import SAVING, Pulse, Slot
from dcp_worker.rank.result import TRACEBACK_CHARS, Outcome, Place, Warnings
from dcp_worker.training import sharding, state_dict, workload
from dcp_worker.training.failures import (
    DeviceUnavailable,
    WorkloadFailed,
    WorkloadRejected,
    explain,
    in_spec_words,
    last_lines,
    user_code,
)

COLLECTIVE_SLACK_SECONDS: Final = 60
"""By this much a collective may outlast the attempt: the launcher, who sees which rank is waited for, ends it first."""
MESSAGE_CHARS: Final = 1000
SEED: Final = 0


class Stopped(EngineError):
    """The launcher was told to stop. Raised where the engine can still clean up after itself."""

    reason = Reason.WORKER_LOST


def run(task_json: str, place: Place, slot: Slot) -> Outcome:
    """Run one rank to its end; the process is the rank's own."""
    pulse = Pulse(slot)
    pulse.start()
    return Rank(Task.model_validate_json(task_json), place, pulse).run()


@dataclass
class Rank:
    """One rank's way through its Task."""

    task: Task
    place: Place
    pulse: Pulse
    warnings: Warnings = field(default_factory=Warnings, init=False)
    stop_asked: bool = field(default=False, init=False)
    moved: int = field(default=0, init=False)
    allowed: list[type] = field(default_factory=list, init=False)
    """What objects of a checkpoint may be of, beside the common classes."""

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
            match self.task.operation:
                case Operation.VERIFY:
                    return self._verify()
                case Operation.SAVE:
                    return self._save()
                case Operation.LOAD:
                    return self._load()
        except BaseException as raised:  # noqa: BLE001 - the launcher hears of everything
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            return self._failed(raised)

    def _verify(self) -> Outcome:
        storage, started = self.task.storage, time.monotonic()
        with self.pulse.stage("verifying", transfers=True):
            info = dcp_engine.verify(storage.url, storage_options=storage.options, on_progress=self._on_progress)
        return self._done(Reason.VERIFIED, info, started)

    def _save(self) -> Outcome:
        task, storage = self.task, self.task.storage
        spec, made, device = self._joined()
        model, optimizer = self._built(made, device)
        extra = self._extra(made)
        before: int | None = 0
        if spec.from_ is not None:
            with self.pulse.stage("loading workload.from", transfers=True):
                before = self._read_into(model, optimizer, extra, spec.from_.url).step
        if spec.steps:
            self._run_steps(made, model, optimizer, spec.steps)
            extra = self._extra(made)  # plain values are those of the moment at which they are asked for
        with self.pulse.stage("completing the state"):
            state_dict.init_optimizer_state(optimizer)
            if self.place.world_size > 1:
                state_dict.replicate(model, optimizer, whole=task.parallelism.strategy is Strategy.NONE)
        started = time.monotonic()
        with self.pulse.stage(SAVING, transfers=True):
            info = dcp_engine.save(
                {**state_dict.state_dict(model, optimizer), **extra},
                storage.url,
                overwrite=storage.overwrite,
                storage_options=storage.options,
                allow=self.allowed,
                unloadable="refuse",
                origin=task.origin,
                step=None if before is None else before + spec.steps,
                patience=task.active_seconds,
                on_progress=self._on_progress,
            )
            # The commit is the truth: a SIGTERM from here on changes nothing.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        return self._done(Reason.SAVED, info, started)

    def _load(self) -> Outcome:
        _, made, device = self._joined()
        model, optimizer = self._built(made, device)
        extra = self._extra(made)
        started = time.monotonic()
        with self.pulse.stage("loading", transfers=True):
            info = self._read_into(model, optimizer, extra, self.task.storage.url)
        outcome = self._done(Reason.LOADED, info, started)
        if isinstance(made, workload.ChecksLoaded):
            with self.pulse.stage("checking what was loaded"), user_code("loaded()", WorkloadRejected):
                made.loaded(model, optimizer, extra)
            # Else a rank that is content would report success while another's check still fails.
            with self.pulse.stage("waiting for the other ranks' checks"):
                dist.barrier()
        return outcome

    def _joined(self) -> tuple[WorkloadSpec, workload.Workload, torch.device]:
        """Import the workload, which fails fastest, and join the other ranks."""
        spec = self.task.workload
        if spec is None:
            raise WorkloadFailed(f"a {self.task.operation} needs a workload")
        with self.pulse.stage("importing the workload"):
            made = workload.make(spec.entrypoint, spec.args)
            self.allowed = workload.classes(spec.allow)
        with self.pulse.stage("waiting for the other ranks"):
            device = self._device()
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                init_method=f"tcp://{self.place.master_addr}:{self.place.master_port}",
                rank=self.place.rank,
                world_size=self.place.world_size,
                timeout=timedelta(seconds=self.task.active_seconds + COLLECTIVE_SLACK_SECONDS),
            )
        return spec, made, device

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

    def _built(self, made: workload.Workload, device: torch.device) -> tuple[nn.Module, torch.optim.Optimizer | None]:
        """Return the sharded model and its optimizer."""
        with self.pulse.stage("building the model"):
            model = self._model(made)
            fills = made if sharding.has_meta(model) and isinstance(made, workload.InitsBuffers) else None
            buffers = workload.unsaved(model)[1] if fills else {}
        workload.need_shapes(model)
        if self.task.operation is Operation.SAVE:
            workload.need_savable(model)
        with self.pulse.stage("sharding the model"):
            model = sharding.shard(model, self.task.parallelism, self.place.world_size, device)
            if fills:
                workload.init_buffers(fills, model, buffers)
        with self.pulse.stage("making the optimizer"), user_code("optimizer()"):
            optimizer = made.optimizer(model.parameters())
            workload.need_own(optimizer, model)
        return model, optimizer

    def _model(self, made: workload.Workload) -> nn.Module:
        """Build the model, without memory where every value of it is about to be loaded."""
        whole = self.task.operation is Operation.LOAD and _is_whole(self.task.load)
        if whole and (model := self._without_memory(made)) is not None:
            return model
        with user_code("model()"):
            return self._seeded(made.model)

    def _without_memory(self, made: workload.Workload) -> nn.Module | None:
        """Build the model on the meta device, or return None where a Load would then leave values missing."""
        try:
            with torch.device("meta"):
                model = self._seeded(made.model)
        except Stopped:
            raise
        except Exception:  # noqa: BLE001 - it looks at values while it is made; any other fault will show in memory too
            return None
        parameters, buffers = workload.unsaved(model)
        fills = isinstance(made, workload.InitsBuffers)
        whole = all(tensor.is_meta for tensor, _ in sharding.tied(model)) and not workload.has_loose_meta(model)
        return None if parameters or (buffers and not fills) or not whole else model

    @staticmethod
    def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
        torch.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002 - the one that a model which takes no generator draws from
        return make()

    def _extra(self, made: workload.Workload) -> dict[str, Any]:
        with self.pulse.stage("asking for extra state"):
            return workload.extra_state(made)

    def _run_steps(
        self, made: workload.Workload, model: nn.Module, optimizer: torch.optim.Optimizer | None, steps: int
    ) -> None:
        if not isinstance(made, workload.Steps):
            raise WorkloadFailed(f"workload.steps is {steps}, and the workload has no method step()")
        for number in range(1, steps + 1):
            with self.pulse.stage(f"step {number} of {steps}"), user_code(f"step() {number}"):
                made.step(model, optimizer)

    def _read_into(
        self, model: nn.Module, optimizer: torch.optim.Optimizer | None, extra: dict[str, Any], url: str
    ) -> CheckpointInfo:
        """Load a checkpoint into model, optimizer and extra state; collective."""
        state_dict.init_optimizer_state(optimizer)
        # What each rank has of its own is not even to be there, where it stays as it is on another number of ranks.
        asked = {
            name: value
            for name, value in extra.items()
            if not isinstance(value, dcp_engine.PerRank) or load_planner.selects(self.task.load, f"{name}.{value.name}")
        }
        values = {**state_dict.state_dict(model, optimizer), **asked}
        groups, whole = state_dict.groups(values), _is_whole(self.task.load)
        objects = [name for name, value in asked.items() if isinstance(value, Stateful)]
        info = dcp_engine.load(
            values,
            url,
            storage_options=self.task.storage.options,
            planner=load_planner.SelectingLoadPlanner(
                self.task.load,
                objects if whole else (),
                frozen=state_dict.frozen(model) if optimizer is not None else (),
                adopts_states=state_dict.needs_closure(optimizer),
            ),
            allow=self.allowed,
            patience=self.task.active_seconds,
            on_progress=self._on_progress,
        )
        state_dict.check_groups(groups, state_dict.groups(values), whole=whole, unneeded=state_dict.frozen(model))
        state_dict.load_state_dict(model, optimizer, values)
        extra.update({name: values[name] for name in asked})
        return info

    def _done(self, result: Reason, info: CheckpointInfo, started: float) -> Outcome:
        seconds = time.monotonic() - started
        warnings = tuple(self.warnings.texts)
        return Outcome(self.place.rank, result, info, warnings=warnings, bytes_moved=self.moved, seconds=seconds)

    def _failed(self, raised: BaseException) -> Outcome:
        error = explain(raised)
        stage = self.pulse.name
        failed = error.failures or [error]
        return Outcome(
            self.place.rank,
            conflict=error.conflict,
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

    def _on_progress(self, done: int, total: int) -> None:
        """Note bytes; called from the engine's threads. Raising here fails the transfer, and the engine cleans up."""
        self.moved = done
        self.pulse.moved(done, total)
        if self.stop_asked:
            raise Stopped("the launcher was told to stop")

    def _on_sigterm(self, number: int, frame: FrameType | None) -> None:
        """Stop: at once, or during a transfer at its next bytes, so that a commit is never torn from its save."""
        del number, frame
        self.stop_asked = True
        if not self.pulse.transferring:
            raise Stopped("the launcher was told to stop")


def _is_whole(load: LoadSelection) -> bool:
    """Return whether everything that the workload has is to be loaded."""
    return load.strict and not load.include and not load.exclude
