"""Entrypoints that fail, each in one way, in one rank or in all; and one that does not."""

import os
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dcp_engine import failpoints


def is_rank(rank: int | None) -> bool:
    return rank is None or int(os.environ["RANK"]) == rank


def say(folder: str) -> None:
    """Leave this rank's pid where the test waits for it, whole from the first moment."""
    draft = Path(folder) / f".{os.getpid()}"
    draft.write_text(str(os.getpid()))
    draft.rename(Path(folder) / f"rank-{os.environ['RANK']}")


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        if time.monotonic() > deadline:
            raise TimeoutError(path)
        time.sleep(0.02)


class Fine:
    """A few small layers; the optimizer's state makes it several tensors per file."""

    def __init__(self, width: int = 8, layers: int = 1) -> None:
        self.width = width
        self.layers = layers

    def model(self) -> nn.Module:
        return nn.Sequential(*(nn.Linear(self.width, self.width) for _ in range(self.layers)))

    def optimizer(self, params: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, momentum=0.9)

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        torch.autograd.backward(model(torch.ones(self.width)).sum())
        optimizer.step()
        optimizer.zero_grad()


class ModelRaises(Fine):
    """One rank can't build the model; the others wait for it."""

    def __init__(self, rank: int | None = None) -> None:
        super().__init__()
        self.rank = rank

    def model(self) -> nn.Module:
        if is_rank(self.rank):
            raise ValueError("the data set has 7 columns, expected 8")
        return super().model()


class Exits(Fine):
    """Leaves as a script does."""

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        del model, optimizer
        raise SystemExit(3)


class NeedsTooMuch(Fine):
    """Asks torch for a tensor that no machine holds."""

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        del model, optimizer
        torch.empty(1 << 55)


class Dies(Fine):
    """One rank is killed in its first step."""

    def __init__(self, rank: int, number: int = signal.SIGKILL) -> None:
        super().__init__()
        self.rank = rank
        self.number = number

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        if is_rank(self.rank):
            os.kill(os.getpid(), self.number)
        super().step(model, optimizer)


class DiesAt(Fine):
    """One rank is killed at a named point of its save."""

    def __init__(self, rank: int, point: failpoints.Point) -> None:
        super().__init__()

        def kill(reached: failpoints.Point) -> None:
            if reached == point and is_rank(rank):
                os.kill(os.getpid(), signal.SIGKILL)

        failpoints.hook = kill


class WaitsAt(Fine):
    """Says when it is at a named point of its save and when it is told to stop; goes on when the test says so."""

    def __init__(self, point: failpoints.Point, folder: str) -> None:
        super().__init__()

        stop: Any = signal.getsignal(signal.SIGTERM)

        def told(number: int, frame: object) -> None:
            stop(number, frame)
            (Path(folder) / f"told-{os.environ['RANK']}").touch()

        signal.signal(signal.SIGTERM, told)

        def wait(reached: failpoints.Point) -> None:
            if reached == point:
                say(folder)
                wait_for(Path(folder) / "go")

        failpoints.hook = wait


class Blocks(Fine):
    """In one rank the first step never ends."""

    def __init__(self, folder: str, rank: int | None = None) -> None:
        super().__init__()
        self.folder = folder
        self.rank = rank

    def step(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        say(self.folder)
        if not is_rank(self.rank):
            super().step(model, optimizer)
        else:
            time.sleep(600)


class Suspicious(Fine):
    """Does not like what was loaded."""

    def loaded(self, model: nn.Module, optimizer: torch.optim.Optimizer | None, extra: Mapping[str, Any]) -> None:
        del model, optimizer, extra
        raise AssertionError("the loss is not what it was")
