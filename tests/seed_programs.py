"""What the ranks of the seed's tests run: PyTorch's own two-step load of an FSDP1 optimizer, over our engine."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.optimizer import load_sharded_optimizer_state_dict
from torch.distributed.checkpoint.state_dict_loader import load as dcp_load
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType

import dcp_engine
from workloads import MyTestModule

Sharded = tuple[FullyShardedDataParallel, torch.optim.Adam]


def save_and_load(rank: int, url: str, options: dict[str, Any], how: str) -> dict[str, Any]:
    """Train, save, load into another model; `how`: through the `engine`'s save and load or, bare, those of `dcp`.

    Return which parameters were equal before and after the load, and which optimizer states after.
    """
    with _quiet():
        torch.manual_seed(rank)
        model, optimizer = _sharded()
        torch.autograd.backward(model(torch.rand(8, 8)).sum())
        optimizer.step()
        with FullyShardedDataParallel.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):
            state = {"model": model.state_dict(), "optim": FullyShardedDataParallel.optim_state_dict(model, optimizer)}
            if how == "dcp":
                writer = dcp_engine.CheckpointWriter(url, storage_options=options)
                dcp_save(state, storage_writer=writer, planner=DefaultSavePlanner())
            else:
                dcp_engine.save(state, url, storage_options=options)
        other, its_optimizer = _sharded()
        before = _equal_parameters(model, other)
        _load(other, its_optimizer, url, options, how)
        return {
            "before": before,
            "after": _equal_parameters(model, other),
            "exp_avg": _equal_states(optimizer, its_optimizer, "exp_avg"),
            "exp_avg_sq": _equal_states(optimizer, its_optimizer, "exp_avg_sq"),
            "step": _equal_states(optimizer, its_optimizer, "step"),
        }


def _sharded() -> Sharded:
    model = FullyShardedDataParallel(MyTestModule(), device_id=torch.device("cpu"))
    return model, torch.optim.Adam(model.parameters(), lr=0.1)


def _load(
    model: FullyShardedDataParallel, optimizer: torch.optim.Adam, url: str, options: dict[str, Any], how: str
) -> None:
    def reader() -> dcp_engine.CheckpointReader:
        return dcp_engine.CheckpointReader(url, storage_options=options)

    with FullyShardedDataParallel.state_dict_type(model, StateDictType.SHARDED_STATE_DICT):
        state: dict[str, Any] = {"model": model.state_dict()}
        if how == "dcp":
            dcp_load(state, storage_reader=reader(), planner=DefaultLoadPlanner())
        else:
            dcp_engine.load(state, url, storage_options=options)
        model.load_state_dict(state["model"])
        found = load_sharded_optimizer_state_dict(
            model_state_dict=state["model"], optimizer_key="optim", storage_reader=reader()
        )
        flat = FullyShardedDataParallel.optim_state_dict_to_load(model, optimizer, found["optim"])
        optimizer.load_state_dict(flat)


def _equal_parameters(one: nn.Module, other: nn.Module) -> list[bool]:
    with FullyShardedDataParallel.summon_full_params(one), FullyShardedDataParallel.summon_full_params(other):
        return [torch.equal(here, there) for here, there in zip(one.parameters(), other.parameters(), strict=True)]


def _equal_states(one: torch.optim.Optimizer, other: torch.optim.Optimizer, name: str) -> list[bool]:
    pairs = zip(one.state.values(), other.state.values(), strict=True)
    return [torch.equal(here[name], there[name]) for here, there in pairs]


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what torch says of FSDP1's age."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def overwrite(rank: int, url: str, options: dict[str, Any], how: str) -> list[str]:
    """Save, be refused, replace, load, be refused again; return what the refusals said."""
    first, second = torch.full((10,), 1.0), torch.full((10,), 2.0)

    def save(value: torch.Tensor, **kwargs: Any) -> None:
        if how == "dcp":
            writer = dcp_engine.CheckpointWriter(url, storage_options=options, **kwargs)
            dcp_save({"random": value}, storage_writer=writer)
        else:
            dcp_engine.save({"random": value}, url, storage_options=options, **kwargs)

    def load() -> torch.Tensor:
        state = {"random": torch.zeros(10)}
        if how == "dcp":
            dcp_load(state, storage_reader=dcp_engine.CheckpointReader(url, storage_options=options))
        else:
            dcp_engine.load(state, url, storage_options=options)
        return state["random"]

    def refused() -> str:
        try:
            save(second if torch.equal(load(), first) else first, overwrite=False)
        except (dcp_engine.errors.EngineError, CheckpointException) as error:
            return str(error)
        return "not refused"

    del rank
    save(first, overwrite=False)
    said = [refused()]
    assert torch.equal(load(), first)
    save(second, overwrite=True)
    assert torch.equal(load(), second)
    said.append(refused())
    assert torch.equal(load(), second)
    return said
