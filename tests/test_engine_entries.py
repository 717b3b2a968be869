"""The ways into the engine beside a plain call: inference mode, pickles, Ctrl-C, no group, plans that were kept."""

import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlanner

import dcp_engine
import engine_programs as programs
from dcp_engine import failpoints
from dcp_engine.errors import CheckpointExists, EngineError, InvalidOption, StateMismatch
from dcp_engine.transfer import file_stream
from rank_group import run_ranks, values

pytestmark = pytest.mark.tier("ranks")


@pytest.mark.adversary
@pytest.mark.parametrize("inside", [True, False], ids=["B5 within", "B5 after"])
def test_a_load_fills_tensors_of_inference_mode(tmp_path: Path, *, inside: bool) -> None:
    saved = torch.arange(12.0).reshape(3, 4)
    dcp_engine.save({"plain": saved, "half": saved, "columns": saved}, tmp_path)
    with torch.inference_mode():
        found = {"plain": torch.zeros(3, 4), "half": torch.zeros(3, 4).bfloat16(), "columns": torch.zeros(4, 3).t()}
    with torch.inference_mode(inside):
        dcp_engine.load(found, tmp_path)
    assert all(torch.equal(each.float(), saved) for each in found.values())


@pytest.mark.adversary
@pytest.mark.parametrize(
    "kind", [dcp_engine.CheckpointWriter, dcp_engine.CheckpointReader], ids=["F5 writer", "F5 reader"]
)
@pytest.mark.parametrize("url", ["s3://bucket/x", "gs://bucket/x", "file:///tmp/x"])
def test_writers_and_readers_travel(kind: Callable[..., Any], url: str) -> None:
    options = {} if url.startswith("file") else {"max_attempts": 2, "anon": True}
    copy = pickle.loads(pickle.dumps(kind(url, storage_options=options)))
    assert (copy.store.url, copy.options.storage_options) == (url, options)


@pytest.mark.adversary
def test_ctrl_c_stops_all_files_of_a_save_and_removes_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    written: list[str] = []

    def hook(reached: str) -> None:
        if reached == "mid-part":
            written.append(reached)
            threading.Event().wait(0.02)

    monkeypatch.setattr(failpoints, "hook", hook)
    state = {str(number): torch.zeros(1 << 18) for number in range(40)}
    dcp_engine.save(state, tmp_path / "whole")
    whole = len(written)
    written.clear()
    monkeypatch.setattr(file_stream, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dcp_engine.save(state, tmp_path / "stopped")
    assert len(written) < whole / 2
    assert [file for file in (tmp_path / "stopped").rglob("*") if file.is_file()] == []


@pytest.mark.adversary
@pytest.mark.parametrize("call", ["save", "async_save", "load"])
def test_one_of_several_that_joined_no_group_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    dcp_engine.save({"w": torch.zeros(3)}, tmp_path / "there")
    monkeypatch.setenv("WORLD_SIZE", "8")
    url = tmp_path / ("there" if call == "load" else "new")
    with pytest.raises(InvalidOption, match=r"WORLD_SIZE is 8, .*init_process_group first, or say no_dist=True"):
        getattr(dcp_engine, call)({"w": torch.zeros(3)}, url)
    done = getattr(dcp_engine, call)({"w": torch.zeros(3)}, url, no_dist=True)
    if call == "async_save":
        done.wait(60)
    assert dcp_engine.find(url) is not None


@pytest.mark.adversary
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("first", ["engine", "bare"])
def test_plans_that_were_kept_of_ours_serve_stock(tmp_path: Path, first: str) -> None:
    for name, value in vars(SavePlanner).items():
        if name.startswith("_cached"):
            value.clear()
    state = {"w": torch.arange(9.0)}
    if first == "engine":
        dcp_engine.save(state, tmp_path / "ours", planner=DefaultSavePlanner(enable_plan_caching=True))
    else:
        ours = dcp_engine.CheckpointWriter(tmp_path / "ours")
        dcp.save(state, storage_writer=ours, planner=DefaultSavePlanner(enable_plan_caching=True), no_dist=True)
    planner = DefaultSavePlanner(enable_plan_caching=True)
    dcp.save(state, checkpoint_id=tmp_path / "stock", planner=planner, no_dist=True)
    found = {"w": torch.zeros(9)}
    dcp_engine.load(found, tmp_path / "stock")
    assert torch.equal(found["w"], state["w"])


@pytest.mark.adversary
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("first", ["engine", "bare", "stock"])
def test_a_writer_of_ours_serves_planners_that_keep_plans(tmp_path: Path, first: str) -> None:
    """Each save goes into a folder of its own, whoever kept the plan."""

    def saved(by: str, folder: Path, value: float) -> None:
        state, planner = {"w": torch.full((9,), value)}, DefaultSavePlanner(enable_plan_caching=True)
        if by == "engine":
            dcp_engine.save(state, folder, planner=planner)
        elif by == "bare":
            dcp.save(state, storage_writer=dcp_engine.CheckpointWriter(folder), planner=planner, no_dist=True)
        else:
            dcp.save(state, checkpoint_id=folder, planner=planner, no_dist=True)

    order = [first, "bare", "bare", "stock", "engine", "bare"]
    for number, by in enumerate(order):
        saved(by, tmp_path / str(number), float(number))
    for number in range(len(order)):
        found = {"w": torch.zeros(9)}
        dcp_engine.load(found, tmp_path / str(number))
        assert found["w"].eq(number).all()


SAVED: dict[str, Any] = {
    "model": {"layers": [torch.arange(6.0).reshape(2, 3), {"bias": torch.ones(2, dtype=torch.bfloat16)}], "scale": 2.5},
    "optim": {"state": {"w": torch.zeros(2)}, "lr": 0.1},
    "n": 3,
}


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ([], ["model.layers.0", "model.layers.1.bias", "model.scale", "n", "optim.lr", "optim.state.w"]),
        (["n"], ["n"]),
        (["optim"], ["optim.lr", "optim.state.w"]),
        (["model.layers.1"], ["model.layers.1.bias"]),
        (["*.bias", "n"], ["model.layers.1.bias", "n"]),
        ("model.scale", ["model.scale"]),
    ],
)
@pytest.mark.parametrize("by", ["engine", "stock"])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_checkpoint_is_read_without_a_template(tmp_path: Path, by: str, keys: Any, names: list[str]) -> None:
    if by == "engine":
        dcp_engine.save(SAVED, tmp_path)
    else:
        dcp.save(SAVED, checkpoint_id=tmp_path, no_dist=True)
    read, _ = flatten_state_dict(dcp_engine.read(tmp_path, keys=keys))
    found = {name: value for name, value in read.items() if value is not None}  # the rest of a list
    saved, _ = flatten_state_dict(SAVED)
    assert sorted(found) == names
    for name, value in found.items():
        assert torch.equal(value, saved[name]) if isinstance(value, torch.Tensor) else value == saved[name]


@pytest.mark.adversary
def test_a_key_that_chooses_nothing_is_named(tmp_path: Path) -> None:
    dcp_engine.save(SAVED, tmp_path)
    with pytest.raises(StateMismatch, match=r"chosen by modle\.\*; its parts are model, n, optim"):
        dcp_engine.read(tmp_path, keys=["modle.*", "n"])


@pytest.mark.adversary
@pytest.mark.parametrize("made", [dcp_engine.CheckpointWriter, dcp_engine.CheckpointReader])
def test_a_place_is_given_once_by_either_name(tmp_path: Path, made: Any) -> None:
    assert made(path=tmp_path).checkpoint_id == made(tmp_path).checkpoint_id == made(url=tmp_path).checkpoint_id
    for given in ((), (tmp_path, tmp_path)):
        with pytest.raises(InvalidOption, match="one of url and path"):
            made(*given[:1], **({"path": given[1]} if given else {}))


@pytest.mark.adversary
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_nothing_is_committed_beside_what_each_rank_committed_by_itself(tmp_path: Path) -> None:
    dcp.save({"w": torch.ones(3)}, checkpoint_id=tmp_path, use_collectives=False, no_dist=True)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    assert "__0.metadata" in before
    with pytest.raises(CheckpointExists, match=r"each rank committed a part of its own there \(__0.metadata"):
        dcp_engine.save({"w": torch.zeros(3)}, tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before
    dcp_engine.save({"w": torch.zeros(3)}, tmp_path, overwrite=True)
    assert dcp_engine.read(tmp_path)["w"].eq(0).all()


_FIRST_SAVE = """
import sys, torch, torch.distributed.checkpoint
import dcp_engine
dcp_engine.warm(sys.argv[1] if len(sys.argv) > 2 else None)
before = set(sys.modules)
state = {"w": torch.ones(3), "n": 1}
dcp_engine.async_save(state, sys.argv[1]).wait()
dcp_engine.load(state, sys.argv[1])
print(sorted(name for name in sys.modules.keys() - before if name.startswith(("dcp_", "torch", "pydantic"))))
"""


@pytest.mark.adversary
@pytest.mark.parametrize("more", [[], ["with the URL"]])
def test_after_warm_the_first_save_and_load_import_nothing(tmp_path: Path, more: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FIRST_SAVE, str(tmp_path / "c"), *more], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.adversary
def test_warm_says_at_once_that_a_store_can_not_be_used() -> None:
    with pytest.raises(EngineError):
        dcp_engine.warm("nosuch://bucket/run")


@pytest.mark.parametrize(
    ("call", "option", "value", "words"),
    [
        (dcp_engine.save, "drift", "refus", "drift: 'refus' is none of warn, refuse, ignore"),
        (dcp_engine.save, "unloadable", "no", "unloadable: 'no' is none of warn, refuse"),
        (dcp_engine.load, "strict", "Both", "strict: 'Both' is none of asked, both"),
        (dcp_engine.per_rank, "resize", "keeps", "resize: 'keeps' is none of refuse, keep"),
    ],
)
def test_a_word_that_is_none_of_an_options_is_refused(
    tmp_path: Path, call: Any, option: str, value: str, words: str
) -> None:
    with pytest.raises(InvalidOption, match=words):
        call({}, *([] if call is dcp_engine.per_rank else [tmp_path]), **{option: value})
    assert list(tmp_path.rglob("*.distcp")) == []


BAD_OPTIONS: list[tuple[str, object, str]] = [
    ("memory_limit", -1, "memory_limit: -1 is no whole number of bytes from 1 on"),
    ("memory_limit", "256MB", "memory_limit: '256MB' is no whole number"),
    ("patience", 0, "patience: 0 is no number of seconds above 0"),
    ("patience", "long", "patience: 'long' is no number"),
    ("patience", float("nan"), "patience: nan is no number"),
    ("allow", "my_pkg.Config", "allow: 'my_pkg.Config' is no sequence of classes"),
    ("allow", ["my_pkg.Config"], "allow: .* is no sequence of classes; write the classes"),
    ("storage_options", "hunter2", "storage_options: a str is no mapping"),
    ("on_progress", 5, "on_progress: a int can't be called"),
]
BAD_SAVE_OPTIONS: list[tuple[str, object, str]] = [
    *BAD_OPTIONS,
    ("keep_replaced", 5, r"keep_replaced: 5 is no timedelta; write one, such as timedelta\(hours=1\)"),
    ("step", "3", "step: '3' is no whole number"),
    ("step", 1.5, "step: 1.5 is no whole number"),
    ("origin", "me", "origin: a str is no Origin"),
]


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("call", "option", "value", "words"),
    [
        *((call, *bad) for call in (dcp_engine.save, dcp_engine.async_save) for bad in BAD_SAVE_OPTIONS),
        *((dcp_engine.load, *bad) for bad in BAD_OPTIONS),
        (dcp_engine.clean, "older_than", 5, "older_than: 5 is no timedelta"),
        (dcp_engine.clean, "older_than", timedelta(days=-1), "older_than: .* is less than nothing"),
        (dcp_engine.clean, "keep_replaced", "1h", "keep_replaced: '1h' is no timedelta"),
    ],
)
def test_a_value_that_an_option_can_not_have_is_refused_by_the_call_itself(
    tmp_path: Path, call: Any, option: str, value: object, words: str
) -> None:
    dcp_engine.save({"w": torch.zeros(1)}, tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InvalidOption, match=words) as caught:
        call(*([] if call is dcp_engine.clean else [{"w": torch.zeros(1)}]), tmp_path, **{option: value})
    assert "hunter2" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.adversary
@pytest.mark.parametrize("url", ["", "s3:/bucket/run", "gs:bucket/run", Path("s3://bucket/run")], ids=str)
def test_half_a_url_is_no_folder_here(url: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Path` makes one slash of two."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidOption, match=r"write (s3://bucket/run|gs://bucket/run|protocol://bucket/path)"):
        dcp_engine.save({"w": torch.zeros(1)}, url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.adversary
def test_a_rank_outside_of_the_group_is_told_so(tmp_path: Path) -> None:
    first, second, outside = values(run_ranks(3, programs.save_outside_of_the_group, str(tmp_path)))
    assert first == second == dcp_engine.inspect(tmp_path).save_id
    assert outside.startswith("InvalidOption: ")
    assert "rank 2 is no member" in outside
