"""The ways into the engine beside a plain call: inference mode, pickles, Ctrl-C, no group, plans that were kept."""

import pickle
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlanner

from dcp_worker import engine
from dcp_worker.engine import failpoints, writer
from dcp_worker.engine.errors import InvalidOption


@pytest.mark.parametrize("inside", [True, False], ids=["B5 within", "B5 after"])
def test_a_load_fills_tensors_of_inference_mode(tmp_path: Path, *, inside: bool) -> None:
    saved = torch.arange(12.0).reshape(3, 4)
    engine.save({"plain": saved, "half": saved, "columns": saved}, tmp_path)
    with torch.inference_mode():
        found = {"plain": torch.zeros(3, 4), "half": torch.zeros(3, 4).bfloat16(), "columns": torch.zeros(4, 3).t()}
    with torch.inference_mode(inside):
        engine.load(found, tmp_path)
    assert all(torch.equal(each.float(), saved) for each in found.values())


@pytest.mark.parametrize("kind", [engine.CheckpointWriter, engine.CheckpointReader], ids=["F5 writer", "F5 reader"])
@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "file:///tmp/x"])
def test_writers_and_readers_travel(kind: Callable[..., Any], url: str) -> None:
    options = {} if url.startswith("file") else {"max_attempts": 2, "anon": True}
    copy = pickle.loads(pickle.dumps(kind(url, storage_options=options)))
    assert (copy.store.url, copy._options) == (url, options)


def test_ctrl_c_stops_all_files_of_a_save_and_removes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    stopped = threading.Event()

    def hook(reached: str) -> None:
        if reached == "mid-part":
            stopped.wait(0.02)

    monkeypatch.setattr(writer, "wait", interrupted)
    monkeypatch.setattr(failpoints, "hook", hook)
    with pytest.raises(KeyboardInterrupt):
        engine.save({str(number): torch.zeros(1 << 20) for number in range(40)}, tmp_path)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == []


@pytest.mark.parametrize("call", ["save", "async_save", "load"])
def test_one_of_several_that_joined_no_group_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    engine.save({"w": torch.zeros(3)}, tmp_path / "there")
    monkeypatch.setenv("WORLD_SIZE", "8")
    url = tmp_path / ("there" if call == "load" else "new")
    with pytest.raises(InvalidOption, match=r"WORLD_SIZE is 8, .*init_process_group first, or say no_dist=True"):
        getattr(engine, call)({"w": torch.zeros(3)}, url)
    done = getattr(engine, call)({"w": torch.zeros(3)}, url, no_dist=True)
    if call == "async_save":
        done.wait(60)
    assert engine.find(url) is not None


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("first", ["engine", "bare"])
def test_plans_that_were_kept_of_ours_serve_stock(tmp_path: Path, first: str) -> None:
    for name, value in vars(SavePlanner).items():
        if name.startswith("_cached"):
            value.clear()
    state = {"w": torch.arange(9.0)}
    if first == "engine":
        engine.save(state, tmp_path / "ours", planner=DefaultSavePlanner(enable_plan_caching=True))
    else:
        ours = engine.CheckpointWriter(tmp_path / "ours")
        dcp.save(state, storage_writer=ours, planner=DefaultSavePlanner(enable_plan_caching=True), no_dist=True)
    planner = DefaultSavePlanner(enable_plan_caching=True)
    dcp.save(state, checkpoint_id=tmp_path / "stock", planner=planner, no_dist=True)
    found = {"w": torch.zeros(9)}
    engine.load(found, tmp_path / "stock")
    assert torch.equal(found["w"], state["w"])
