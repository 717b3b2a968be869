"""Trains by accelerate: python train_accelerate.py PREFIX LOSSES STOP."""

import json
import logging
import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dcp_agent import Agent
from dcp_agent.adapters.accelerate import prepared
from stacks.stopping import stop_this_rank

EPOCHS, STEPS = 4, 64


class Losses:
    """The loss of each step so far, as a state of the training's own."""

    def __init__(self) -> None:
        self.of_steps: list[float] = []

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {"losses": torch.tensor([*self.of_steps, *[0.0] * (STEPS - len(self.of_steps))])}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.of_steps = [each for each in state["losses"].tolist() if each]


def main(prefix: str, losses: str, stop: str) -> None:
    accelerator = Accelerator(cpu=True, dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True))
    set_seed(0)
    model = nn.Sequential(nn.Linear(8, 32), nn.Dropout(0.1), nn.Linear(32, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(1))
    loader = DataLoader(TensorDataset(inputs, inputs.sum(1, keepdim=True)), batch_size=2, shuffle=True)
    model, optimizer, loader, scheduler = accelerator.prepare(model, optimizer, loader, scheduler)
    past = Losses()
    accelerator.register_for_checkpointing(past)

    agent = Agent(prepared(accelerator), prefix)
    step = agent.resume()
    first, skipped = divmod(step, len(loader))
    for epoch in range(first, EPOCHS):
        loader.set_epoch(epoch)
        for batch, wanted in accelerator.skip_first_batches(loader, skipped) if epoch == first else loader:
            loss = nn.functional.mse_loss(model(batch), wanted)
            accelerator.backward(loss)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step += 1
            past.of_steps.append(accelerator.gather(loss).mean().item())
            if step == int(stop) and accelerator.is_last_process:
                stop_this_rank()
            agent.step(step)
    agent.close()
    if accelerator.is_main_process:
        Path(losses).write_text(json.dumps(past.of_steps), encoding="utf-8")
    accelerator.end_training()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*sys.argv[1:])
