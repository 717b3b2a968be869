"""A Save that starts from weights that others wrote: safetensors, or a file of `torch.save`."""

from pathlib import Path

import pytest
import torch

import dcp_engine
from dcp_contract.operations import Operation
from dcp_contract.sections import Strategy
from rank_pool import Pool
from tasks import Cell, succeed, task

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


@pytest.mark.parametrize("cell", [Cell(Strategy.FSDP2, 2), Cell(Strategy.FSDP1, 2), Cell(Strategy.DDP, 2)], ids=str)
def test_a_save_may_start_from_the_weights_that_others_wrote(pool: Pool, tmp_path: Path, cell: Cell) -> None:
    """From safetensors, from a torch file of the state, and from one of the model's state dict alone."""
    source = tmp_path / "run"
    # After a step: without one it were what any Save begins with.
    succeed(pool.work(task(Operation.SAVE, source, Cell(Strategy.NONE, 1), steps=1)))
    model = dcp_engine.read(source, keys=["model"], no_dist=True)["model"]
    dcp_engine.export(source, tmp_path / "hf")
    dcp_engine.export(source, tmp_path / "all.pt", format="torch")
    torch.save(model, tmp_path / "model.pt")
    for number, (field, name) in enumerate([("safetensors", "hf"), ("torch", "all.pt"), ("torch", "model.pt")]):
        url = tmp_path / str(number)
        succeed(pool.work(task(Operation.SAVE, url, cell, from_={field: f"file://{tmp_path / name}"})))
        found = dcp_engine.read(url, keys=["model"], no_dist=True)["model"]
        assert found.keys() == model.keys()
        assert all(torch.equal(value, model[name]) for name, value in found.items())
