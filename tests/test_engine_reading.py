"""What else than a checkpoint of this torch may stand at a URL, and what a load makes of it."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed._shard.sharded_tensor.metadata import TensorProperties as OldProperties
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner

import dcp_engine
import stock_dcp as dcp
from dcp_engine.errors import CheckpointNotFound

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


def file(path: Path) -> None:
    torch.save({"a": 1}, path)


def safetensors(path: Path) -> None:
    path.mkdir()
    (path / "model-00001-of-00001.safetensors").write_bytes(b"")


def of_one_rank(path: Path) -> None:
    dcp.save({"a": torch.ones(2)}, checkpoint_id=path, no_dist=True)
    (path / ".metadata").rename(path / "__0.metadata")


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("make", "said"),
    [
        pytest.param(file, "it is a file, as torch.save writes", id="F12 file"),
        pytest.param(safetensors, "it holds safetensors", id="F12 safetensors"),
        pytest.param(of_one_rank, "it holds __0.metadata, each of one rank alone", id="T-F4"),
        pytest.param(Path.mkdir, "there is no .metadata", id="nothing"),
    ],
)
def test_where_no_checkpoint_stands_the_error_says_what_does(
    tmp_path: Path, make: Callable[[Path], Any], said: str
) -> None:
    make(tmp_path / "there")
    for read in (dcp_engine.inspect, dcp_engine.verify, lambda url: dcp_engine.load({"a": torch.zeros(2)}, url)):
        with pytest.raises(CheckpointNotFound, match=said):
            read(tmp_path / "there")


@pytest.mark.adversary
def test_what_one_rank_saved_alone_is_read_by_dcp_load(tmp_path: Path) -> None:
    """T-F4."""
    of_one_rank(tmp_path)
    state = {"a": torch.zeros(2)}
    dcp.load(state, storage_reader=dcp_engine.CheckpointReader(tmp_path), no_dist=True)
    assert state["a"].equal(torch.ones(2))


@pytest.mark.adversary
def test_properties_of_an_old_torch_are_read(tmp_path: Path) -> None:
    """T-F1: until torch 2.2 those in `.metadata` were the ones of sharded tensors."""
    dcp.save({"a": torch.arange(4.0)}, checkpoint_id=tmp_path, no_dist=True)
    metadata = pickle.loads((tmp_path / ".metadata").read_bytes())
    metadata.state_dict_metadata["a"].properties = OldProperties(torch.float32)
    (tmp_path / ".metadata").write_bytes(pickle.dumps(metadata))
    state = {"a": torch.zeros(4)}
    dcp_engine.load(state, tmp_path)
    assert state["a"].equal(torch.arange(4.0))


@pytest.mark.adversary
@pytest.mark.parametrize("save", ["ours", "stock"])
def test_a_load_needs_no_template_with_dcps_planner(tmp_path: Path, save: str) -> None:
    """F6."""
    saved: dict[str, Any] = {"model": {"w": torch.arange(3.0)}, "step": 7}
    if save == "ours":
        dcp_engine.save(saved, tmp_path / "c")
    else:
        dcp.save(saved, checkpoint_id=tmp_path / "c", no_dist=True)
    found: dict[str, Any] = {}
    dcp_engine.load(found, tmp_path / "c", planner=_EmptyStateDictLoadPlanner())  # type: ignore[no-untyped-call]
    assert found["model"]["w"].equal(saved["model"]["w"])
    assert found["step"] == 7
