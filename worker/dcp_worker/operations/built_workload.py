"""The user's workload on this rank: built, sharded, loaded, stepped, and as the state that is saved."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.stateful import Stateful

import dcp_engine
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.sections import LoadSelection, Source, Strategy
from dcp_engine.call_options import LoadOptions
from dcp_engine.importing import load_weights
from dcp_worker.operations import load_planner
from dcp_worker.rank_context import RankContext
from dcp_worker.training import sharding, state_dict, workload
from dcp_worker.training.failures import Stopped, WorkloadFailed, WorkloadRejected, user_code

SEED: Final = 0


@dataclass
class BuiltWorkload:
    """The workload's model, optimizer and extra state on one rank. What is collective says so."""

    rank: RankContext
    made: workload.UserWorkload
    model: nn.Module
    optimizer: torch.optim.Optimizer | None
    extra: dict[str, Any]
    allowed: list[type]
    """What objects of a checkpoint may be of, beside the common classes."""

    @classmethod
    def build(cls, rank: RankContext, *, savable: bool = False, overwritten: bool = False) -> Self:
        """Import the workload, which fails fastest, join the other ranks, and build and shard the model; collective.

        Args:
            rank: Whose workload it is.
            savable: Refuse a model that can't be saved, before it is sharded.
            overwritten: Every value of the model is about to be loaded, so that it may be built without memory.

        Raises:
            WorkloadFailed: The user's own code raised, or is no workload.
        """
        spec = rank.task.workload
        if spec is None:
            raise WorkloadFailed(f"a {rank.task.operation} needs a workload")
        with rank.stage("importing the workload"):
            made = workload.make(spec.entrypoint, spec.args)
            allowed = workload.classes(spec.allow)
        with rank.stage("waiting for the other ranks"):
            device = rank.join()
        with rank.stage("building the model"):
            model = _model(made, overwritten=overwritten)
            fills = made if isinstance(made, workload.InitsBuffers) and sharding.has_meta(model) else None
            buffers = workload.unsaved(model)[1] if fills else {}
        workload.need_shapes(model)
        if savable:
            workload.need_savable(model)
        with rank.stage("sharding the model"):
            model = sharding.shard(model, rank.task.parallelism, rank.place.world_size, device)
            if fills:
                workload.init_buffers(fills, model, buffers)
        with rank.stage("making the optimizer"), user_code("optimizer()"):
            optimizer = made.optimizer(model.parameters())
            workload.need_own(optimizer, model)
        built = cls(rank, made, model, optimizer, {}, allowed)
        built.ask_extra()
        return built

    def ask_extra(self) -> None:
        """Ask the workload for its extra state: plain values are those of the moment at which they are asked for."""
        with self.rank.stage("asking for extra state"):
            self.extra = workload.extra_state(self.made)

    def run_steps(self, steps: int) -> None:
        """Run optimisation steps; collective as the model is."""
        if not steps:
            return
        if not isinstance(self.made, workload.Steps):
            raise WorkloadFailed(f"save.steps is {steps}, and the workload has no method step()")
        for number in range(1, steps + 1):
            with self.rank.stage(f"step {number} of {steps}"), user_code(f"step() {number}"):
                self.made.step(self.model, self.optimizer)
        self.ask_extra()

    def complete_state(self) -> None:
        """Make the state what a checkpoint is to hold: no optimizer state missing, replicas the same; collective."""
        with self.rank.stage("completing the state"):
            state_dict.init_optimizer_state(self.optimizer)
            if self.rank.place.world_size > 1:
                whole = self.rank.task.parallelism.strategy is Strategy.NONE
                state_dict.replicate(self.model, self.optimizer, whole=whole)

    def state(self) -> dict[str, Any]:
        """Return the state dict to save."""
        return {**state_dict.state_dict(self.model, self.optimizer), **self.extra}

    def load(self, url: str, selection: LoadSelection, field: str) -> CheckpointInfo:
        """Load a checkpoint into model, optimizer and extra state; collective.

        Args:
            url: Where the checkpoint stands.
            selection: Which part of it is loaded.
            field: Where the selection stands in the spec, for errors.
        """
        state_dict.init_optimizer_state(self.optimizer)
        # What each rank has of its own is not even to be there, where it stays as it is on another number of ranks.
        asked = {
            name: value
            for name, value in self.extra.items()
            if not isinstance(value, dcp_engine.PerRank) or load_planner.selects(selection, f"{name}.{value.name}")
        }
        values = {**state_dict.state_dict(self.model, self.optimizer), **asked}
        groups = state_dict.groups(values)
        objects = [name for name, value in asked.items() if isinstance(value, Stateful)]
        frozen = state_dict.frozen(self.model)
        info = dcp_engine.load(
            values,
            url,
            storage_options=self.rank.task.storage.options,
            planner=load_planner.SelectingLoadPlanner(
                selection,
                field,
                objects if selection.whole else (),
                frozen=frozen if self.optimizer is not None else (),
                adopts_states=state_dict.needs_closure(self.optimizer),
            ),
            allow=self.allowed,
            patience=self.rank.task.active_seconds,
            on_progress=self.rank.on_progress,
        )
        state_dict.check_groups(groups, state_dict.groups(values), whole=selection.whole, unneeded=frozen)
        state_dict.load_state_dict(self.model, self.optimizer, values)
        self.extra.update({name: values[name] for name in asked})
        return info

    def start_from(self, source: Source, field: str) -> int | None:
        """Load what a Save starts from; collective. Return the step that it was saved at, if that is known.

        Of what is no checkpoint the model's weights are loaded, and the training begins with step 0.

        Args:
            source: What it is, and which part of it is loaded.
            field: Where it stands in the spec, for errors.
        """
        if source.url is not None:
            return self.load(source.url, source, field).step
        weights = state_dict.state_dict(self.model, None)
        options = LoadOptions(
            storage_options=self.rank.task.storage.options, allow=self.allowed, on_progress=self.rank.on_progress
        )
        planner = load_planner.SelectingLoadPlanner(source, field)
        patience = self.rank.task.active_seconds
        load_weights(weights, source.place, planner, options, file=source.torch is not None, patience=patience)
        state_dict.load_state_dict(self.model, None, weights)
        return 0

    def check_loaded(self) -> None:
        """Let the workload look at what was loaded, and wait until all ranks' workloads are content; collective."""
        if not isinstance(self.made, workload.ChecksLoaded):
            return
        with self.rank.stage("checking what was loaded"), user_code("loaded()", WorkloadRejected):
            self.made.loaded(self.model, self.optimizer, self.extra)
        # Else a rank that is content would report success while another's check still fails.
        with self.rank.stage("waiting for the other ranks' checks"):
            dist.barrier()


def _model(made: workload.UserWorkload, *, overwritten: bool) -> nn.Module:
    """Build the model, without memory where every value of it is about to be loaded."""
    if overwritten and (model := _without_memory(made)) is not None:
        return model
    with user_code("model()"):
        return _seeded(made.model)


def _without_memory(made: workload.UserWorkload) -> nn.Module | None:
    """Build the model on the meta device, or return None where a Load would then leave values missing."""
    try:
        with torch.device("meta"):
            model = _seeded(made.model)
    except Stopped:
        raise
    except Exception:  # noqa: BLE001 - it looks at values while it is made; any other fault will show in memory too
        return None
    parameters, buffers = workload.unsaved(model)
    fills = isinstance(made, workload.InitsBuffers)
    whole = all(tensor.is_meta for tensor, _ in sharding.tied(model)) and not workload.has_loose_meta(model)
    return None if parameters or (buffers and not fills) or not whole else model


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(SEED)
    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002 - the one that a model which takes no generator draws from
    return make()
