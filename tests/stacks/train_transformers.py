"""Trains by the Trainer of transformers: python train_transformers.py PREFIX LOSSES STOP."""

import json
import logging
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments, set_seed

from dcp_agent import Agent
from dcp_agent.adapters.transformers import AgentCallback
from stacks.stopping import stop_this_rank


class Data(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    def __init__(self) -> None:
        self.tokens = torch.randint(0, 64, (64, 16), generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, at: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[at], "labels": self.tokens[at]}


class Stopped(TrainerCallback):
    def __init__(self, at: int) -> None:
        self.at = at

    def on_step_end(self, args: TrainingArguments, state: Any, *_: Any, **__: Any) -> None:
        if state.global_step == self.at and args.process_index == args.world_size - 1:
            stop_this_rank()


def main(prefix: str, losses: str, stop: str) -> None:
    set_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    with TemporaryDirectory() as folder:
        args = TrainingArguments(
            folder,
            num_train_epochs=4,
            per_device_train_batch_size=2,
            learning_rate=0.01,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, args, train_dataset=Data(), callbacks=[Stopped(int(stop))])
        AgentCallback(trainer, partial(Agent, prefix=prefix)).train()
        if trainer.is_world_process_zero():
            found = {each["step"]: each["loss"] for each in trainer.state.log_history if "loss" in each}
            Path(losses).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    main(*sys.argv[1:])
