"""Trains by Lightning: python train_lightning.py PREFIX LOSSES STOP."""

import json
import logging
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import nn
from torch.utils.data import DistributedSampler, TensorDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from dcp_agent import Agent
from dcp_agent.adapters.lightning import LightningAgentCallback
from stacks.stopping import stop_this_rank


class Module(LightningModule):
    """Keeps the loss of each step, and saves them by Lightning's own hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.1), nn.Linear(32, 1))
        self.losses: list[float] = []

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = nn.functional.mse_loss(self.layers(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.01)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["losses"] = self.losses

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.losses = checkpoint["losses"]


class Stopped(Callback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.at and trainer.global_rank == trainer.world_size - 1:
            stop_this_rank()


def main(prefix: str, losses: str, stop: str) -> None:
    seed_everything(0)
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    data = TensorDataset(inputs, inputs.sum(1, keepdim=True))
    # Its order follows from seed and epoch. That of a RandomSampler, which Lightning would wrap, is drawn anew.
    sampler: DistributedSampler[Any] = DistributedSampler(
        data, num_replicas=int(os.environ["WORLD_SIZE"]), rank=int(os.environ["RANK"])
    )
    loader = StatefulDataLoader(data, batch_size=2, sampler=sampler)
    module = Module()
    trainer = Trainer(
        accelerator="cpu",
        devices=int(os.environ["WORLD_SIZE"]),
        strategy="ddp",
        use_distributed_sampler=False,
        max_epochs=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        callbacks=[Stopped(int(stop)), LightningAgentCallback(partial(Agent, prefix=prefix))],
    )
    trainer.fit(module, loader)
    if trainer.is_global_zero:
        Path(losses).write_text(json.dumps(module.losses), encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*sys.argv[1:])
