"""`export(format="torch")`: what `torch.load` reads is what was saved, and the file is there whole or not at all."""

import errno
import shutil
import signal
import zipfile
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save
from torch.utils._pytree import tree_flatten_with_path

import dcp_engine
import export_situations as situations
import file_steps
import s3_server
import stock_dcp
from dcp_engine.errors import CheckpointExists, EngineError, InvalidOption, StateMismatch
from rank_group import run_ranks, values
from rank_processes import CONTEXT

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """Checkpoints of two seeds."""
    return situations.saved_in(tmp_path_factory.mktemp("saved"))


def same(one: Any, other: Any) -> bool:
    """Tell whether two nested states are alike, bit for bit; dicts by their keys, in any order."""
    if isinstance(one, torch.Tensor):
        bits = [each.contiguous().reshape(-1).view(torch.uint8) for each in (one, other)]
        return (one.dtype, one.shape) == (other.dtype, other.shape) and torch.equal(*bits)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(value, other[key]) for key, value in one.items())
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def trained() -> dict[str, Any]:
    """Return a model and its optimizer after a step, and what trainings keep beside them."""
    model = torch.nn.Sequential(torch.nn.Linear(70, 50), torch.nn.Linear(50, 3))
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 70)).sum().backward()
    optimizer.step()
    extra = {"epoch": 3, "losses": [1.5, torch.ones(2)], "pair": ("x", torch.zeros(3)), "none": None, "empty": {}}
    return {"model": model.state_dict(), "optim": optimizer.state_dict(), **extra}


@pytest.mark.parametrize("memory_limit", [200, 1 << 28], ids=["a few values at once", "all at once"])
def test_every_type_from_a_mesh_is_whole_and_any_zip_reader_is_content(tmp_path: Path, memory_limit: int) -> None:
    """torch compares no CRC-32; what unpacks zips does."""
    values(run_ranks(4, situations.save_on_a_mesh, str(tmp_path / "run")))
    info = dcp_engine.export(tmp_path / "run", tmp_path / "all.pt", format="torch", memory_limit=memory_limit)
    expected = situations.of_every_type()
    for mmap in (False, True):
        assert same(torch.load(tmp_path / "all.pt", weights_only=True, mmap=mmap)["model"], expected)
    with zipfile.ZipFile(tmp_path / "all.pt") as archive:
        assert archive.testzip() is None
    assert (info.tensors, info.bytes) == (len(expected), (tmp_path / "all.pt").stat().st_size)


def test_the_state_is_the_one_that_stock_dcp_makes_of_it(tmp_path: Path) -> None:
    """Nested, with lists, numbers, and tensors within objects; from a checkpoint of stock DCP and from one of ours."""
    state = trained()
    stock_dcp.save(state, checkpoint_id=tmp_path / "stock", no_dist=True)
    dcp_to_torch_save(tmp_path / "stock", tmp_path / "stock.pt")
    expected = torch.load(tmp_path / "stock.pt", weights_only=True)
    dcp_engine.save(state, tmp_path / "ours", no_dist=True)
    for source in ("stock", "ours"):
        dcp_engine.export(tmp_path / source, tmp_path / "made.pt", format="torch", overwrite=True)
        found = torch.load(tmp_path / "made.pt", weights_only=True)
        assert [str(path) for path, _ in tree_flatten_with_path(found)[0]] == [
            str(path) for path, _ in tree_flatten_with_path(expected)[0]
        ]
        assert same(found, expected)
    fresh = torch.nn.Sequential(torch.nn.Linear(70, 50), torch.nn.Linear(50, 3))
    fresh.load_state_dict(found["model"])


def test_names_types_and_parts_are_chosen(tmp_path: Path) -> None:
    dcp_engine.save(trained(), tmp_path / "run", no_dist=True)
    options: dict[str, Any] = {"select": ["model"], "keys": {"model.*": "net.*"}, "dtype": torch.bfloat16}
    dcp_engine.export(tmp_path / "run", tmp_path / "m.pt", format="torch", **options)
    found = torch.load(tmp_path / "m.pt", weights_only=True)
    assert {name: value.dtype for name, value in found.items()} == {
        f"net.{layer}.{part}": torch.bfloat16 for layer in (0, 1) for part in ("weight", "bias")
    }


@pytest.mark.parametrize(
    ("url", "options", "error", "words"),
    [
        ("m.pt", {"format": "pickle"}, InvalidOption, "format: 'pickle' is none of safetensors, torch"),
        ("m.pt", {"config_files": ["config.json"]}, InvalidOption, "config_files: a torch file has nothing beside it"),
        ("m.pt", {"select": ["modle"]}, StateMismatch, "select: nothing is chosen by modle"),
        ("m.pt", {"dtype": "float16"}, StateMismatch, "which float16 can't hold"),
        ("folder/", {}, InvalidOption, "names no file; write its name at the end"),
        ("memory://run/m.pt", {}, InvalidOption, "through fsspec a file may show before it is whole"),
    ],
)
def test_what_can_not_be_written_is_refused(
    tmp_path: Path, url: str, options: dict[str, Any], error: type[EngineError], words: str
) -> None:
    dcp_engine.save({"w": torch.tensor([1e30])}, tmp_path / "run", no_dist=True)
    destination = url if "://" in url else f"{tmp_path}/to/{url}"
    with pytest.raises(error, match=words):
        dcp_engine.export(tmp_path / "run", destination, **{"format": "torch", **options})
    assert not (tmp_path / "to").exists() or list((tmp_path / "to").iterdir()) == []


# One file over another.


def failed(source: str, path: Path, number: int) -> int | None:
    """Export over a disk that is full at the n-th step; return what is there after an error that says so for sure."""
    with file_steps.counted(path.parent, number, file_steps.fails(errno.ENOSPC)):
        try:
            situations.export_file(source, path)
        except EngineError as error:
            return None if error.commit_unknown else situations.held_in_file(path)
    return None


@pytest.mark.parametrize("before", [0, 1])
def test_whatever_step_fails_or_kills_the_file_is_the_old_or_the_new_one(
    tmp_path: Path, saved: dict[int, str], before: int
) -> None:
    stands = tmp_path / "stands"
    stands.mkdir()
    if before:
        situations.export_file(saved[1], stands / "m.pt")
    folder = Path(shutil.copytree(stands, tmp_path / "counted"))
    with file_steps.counted(folder) as steps:
        situations.export_file(saved[2], folder / "m.pt")
    assert [path.name for path in folder.iterdir()] == ["m.pt"]
    ends = set()
    for number in range(len(steps)):
        folder = Path(shutil.copytree(stands, tmp_path / str(number)))
        if number % 2:
            process = CONTEXT.Process(target=situations.die_at_file, args=(saved[2], folder / "m.pt", number))
            process.start()
            process.join(60)
            assert process.exitcode in {0, -signal.SIGKILL}
        else:
            assert failed(saved[2], folder / "m.pt", number) in {None, before}
        ends.add(situations.held_in_file(folder / "m.pt"))
    assert ends == {before, 2}


@pytest.mark.parametrize("kind", ["file", "s3"])
def test_a_file_that_comes_meanwhile_stays(
    kind: str, tmp_path: Path, s3: s3_server.S3Server, saved: dict[int, str]
) -> None:
    """One that is large enough to go in parts: such an upload takes no condition from the store."""
    dcp_engine.save({"w": torch.zeros(6 << 20)}, tmp_path / "run", no_dist=True)
    url = str(tmp_path / "to" / "m.pt") if kind == "file" else s3.url(f"{tmp_path.name}/m.pt")
    options = None if kind == "file" else s3.options
    came: list[int] = []

    def come(done: int, _: int) -> None:
        if done and not came:
            came.append(done)
            other = partial(dcp_engine.export, saved[1], url, format="torch", storage_options=options)
            with ThreadPoolExecutor(1) as pool:  # a thread in which obstore draws pieces can't use obstore
                pool.submit(other).result()

    with pytest.raises(CheckpointExists, match="a file stands there"):
        dcp_engine.export(tmp_path / "run", url, format="torch", storage_options=options, on_progress=come)
    with pytest.raises(CheckpointExists, match="a file stands there"):
        dcp_engine.export(tmp_path / "run", url, format="torch", storage_options=options)
    info = dcp_engine.export(tmp_path / "run", url, format="torch", storage_options=options, overwrite=True)
    assert info.bytes is not None
    assert info.bytes > 24 << 20
