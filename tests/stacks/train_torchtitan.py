"""Trains by the parts of torchtitan, in the order of its Trainer: python train_torchtitan.py PREFIX LOSSES STOP."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torchtitan.components.dataloader import ParallelAwareDataloader
from torchtitan.components.optimizer import LRSchedulersContainer, default_adamw

from dcp_agent.adapters.torchtitan import AgentCheckpointManager
from stacks.stopping import stop_this_rank

STEPS = 64


class Data(torch.utils.data.IterableDataset[torch.Tensor]):
    """Random numbers of a rank without end, and how many were drawn."""

    def __init__(self, rank: int) -> None:
        self.rank, self.drawn = rank, 0

    def __iter__(self) -> Iterator[torch.Tensor]:
        while True:
            self.drawn += 1
            yield torch.randn(8, generator=torch.Generator().manual_seed(2 * self.drawn + self.rank))

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


class Training:
    """Stands for torchtitan's Trainer, whose model, attention and tokenizer want a GPU and files of a hub."""

    def __init__(self, prefix: str) -> None:
        torch.manual_seed(0)
        self.step, self.losses = 0, torch.zeros(STEPS)
        rank, world = dist.get_rank(), dist.get_world_size()
        self.model = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 1))
        fully_shard(self.model, mesh=init_device_mesh("cpu", (world,)))
        adamw = default_adamw(lr=0.01)
        adamw.implementation = "for-loop"
        self.optimizers: Any = adamw.build(model_parts=[self.model])
        schedule = LRSchedulersContainer.Config(warmup_steps=2)
        self.schedulers: Any = schedule.build(optimizers=self.optimizers, training_steps=STEPS)
        self.loader = ParallelAwareDataloader(Data(rank), dp_rank=rank, dp_world_size=world, batch_size=2)
        config = AgentCheckpointManager.Config(enable=True, folder=prefix, interval=1000, keep_latest_k=0)
        self.checkpointer: Any = config.build(
            dataloader=self.loader,
            model_parts=[self.model],
            optimizers=self.optimizers,
            lr_schedulers=self.schedulers,
            states={"train_state": self},
            sd_adapter=None,
        )

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step, "losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step, self.losses = state["step"], state["losses"]

    def train(self, stop: int) -> None:
        self.checkpointer.load()
        batches = iter(self.loader)
        while self.step < STEPS:
            self.step += 1
            batch = next(batches)
            loss = nn.functional.mse_loss(self.model(batch), batch.sum(1, keepdim=True))
            loss.backward()  # type: ignore[no-untyped-call] # torch's
            self.optimizers.step()
            self.schedulers.step()
            self.optimizers.zero_grad()
            loss = loss.detach()
            dist.all_reduce(loss)
            self.losses[self.step - 1] = loss
            if self.step == stop and dist.get_rank() == dist.get_world_size() - 1:
                stop_this_rank()
            self.checkpointer.save(self.step, last_step=self.step == STEPS)
        self.checkpointer.close()


def main(prefix: str, losses: str, stop: str) -> None:
    dist.init_process_group("gloo")
    training = Training(prefix)
    training.train(int(stop))
    if dist.get_rank() == 0:
        Path(losses).write_text(json.dumps(training.losses.tolist()), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*sys.argv[1:])
