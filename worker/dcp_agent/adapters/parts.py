"""What stacks hold alike: a model and its optimizers, and the random numbers of a rank."""

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.optim import Optimizer

from dcp_agent.state import StateDict


def model_and_optimizers(models: Sequence[nn.Module], optimizers: Sequence[Optimizer]) -> StateDict:
    """Return their state by the names of the parameters, as any sharding of the model loads it: `model` and `optim`."""
    model, optim = get_state_dict(_one(models), list(optimizers))
    return {"model": model, "optim": optim}


def put_model_and_optimizers(models: Sequence[nn.Module], optimizers: Sequence[Optimizer], loaded: StateDict) -> None:
    """Hand them what was loaded."""
    set_state_dict(_one(models), list(optimizers), model_state_dict=loaded["model"], optim_state_dict=loaded["optim"])


def _one(models: Sequence[nn.Module]) -> nn.Module:
    return models[0] if len(models) == 1 else nn.ModuleList(models)


def random_numbers() -> dict[str, Any]:
    """Return where the generators of this process stand: Python's, numpy's, torch's, and its device's."""
    found = {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state()}  # noqa: NPY002
    if torch.accelerator.is_available():
        found["device"] = torch.get_device_module().get_rng_state()
    return found


def set_random_numbers(state: dict[str, Any]) -> None:
    """Set the generators of this process."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])  # noqa: NPY002 - the one that stacks seed
    torch.set_rng_state(state["torch"])
    if "device" in state:
        torch.get_device_module().set_rng_state(state["device"])
