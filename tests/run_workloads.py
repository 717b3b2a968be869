"""Entrypoints for the tests of `dcp run`: each misbehaves in one way."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import nn


class Tiny:
    """One small layer."""

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(8, 8)

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(params)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.autograd.backward(model(torch.ones(8)).sum())
        optimizer.step()
        optimizer.zero_grad()


class Blocks(Tiny):
    """Says that its step began, by a file, and never comes back from it."""

    def __init__(self, began: str) -> None:
        self.began = Path(began)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        del model, optimizer
        self.began.write_text(str(os.getpid()))
        time.sleep(600)


class Raises(Tiny):
    """Prints a line, then fails."""

    def model(self) -> nn.Module:
        print("about to fail", flush=True)
        raise RuntimeError("the model is not for you")
