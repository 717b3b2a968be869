"""`load_safetensors`: what Hugging Face's library wrote, into shards; and what such files may not claim."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import dcp_engine
import export_situations as situations
import s3_server
from dcp_engine.commit import safetensors_folder
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound, StateMismatch
from dcp_engine.format.safetensors import INDEX, SINGLE
from dcp_engine.stores.opening import open_store
from rank_group import run_ranks, values

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def empty() -> dict[str, torch.Tensor]:
    return {name: torch.empty_like(value) for name, value in situations.of_every_type().items()}


def load(folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    state = empty()
    dcp_engine.load_safetensors(state, folder, no_dist=True, **options)
    return state


def test_every_type_comes_back_from_one_file_and_from_an_export(tmp_path: Path) -> None:
    expected = situations.of_every_type()
    (tmp_path / "one").mkdir()
    save_file(expected, tmp_path / "one" / SINGLE)
    dcp_engine.save({"model": expected}, tmp_path / "run", no_dist=True)
    dcp_engine.export(tmp_path / "run", tmp_path / "many", shard_bytes=400)
    for folder in ("one", "many"):
        found = load(tmp_path / folder)
        assert [name for name, value in expected.items() if bits(found[name]) != bits(value)] == []


def load_on_a_mesh(rank: int, url: str, options: dict[str, Any]) -> list[bool]:
    """Load into shards of both dimensions, converted, under names of one's own."""
    del rank
    assert dist.get_world_size() == 4
    mesh = init_device_mesh("cpu", (2, 2))
    full = torch.arange(7 * 5.0).view(7, 5)
    ways = [(Shard(0), Shard(1)), (Shard(1), Shard(0)), (Replicate(), Shard(0))]
    state = {
        "model": {str(at): distribute_tensor(torch.zeros(7, 5).bfloat16(), mesh, way) for at, way in enumerate(ways)}
    }
    dcp_engine.load_safetensors(state, url, keys={"w*": "model.*"}, storage_options=options)
    return [torch.equal(value.full_tensor(), full.bfloat16()) for value in state["model"].values()]


def test_shards_are_filled_from_a_store(tmp_path: Path, s3: s3_server.S3Server) -> None:
    full = torch.arange(7 * 5.0).view(7, 5)
    state = {f"w{at}": full + 0 for at in range(3)} | {"other": torch.ones(2)}
    dcp_engine.save(state, tmp_path / "run", no_dist=True)
    url = s3.url(tmp_path.name)
    dcp_engine.export(tmp_path / "run", url, shard_bytes=1, storage_options=s3.options)
    assert values(run_ranks(4, load_on_a_mesh, url, s3.options)) == [[True] * 3] * 4


@pytest.mark.adversary
def test_a_file_that_is_written_anew_under_a_load_is_read_as_it_is_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its header was read. What lies where the tensor lay is another one, and the index is the same."""
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": {"w": "a.safetensors"}}))
    save_file({"w": torch.ones(4)}, tmp_path / "a.safetensors")
    look = safetensors_folder.read
    looked: list[Any] = []

    def overtaken(*args: Any) -> Any:
        looked.append(look(*args))
        if len(looked) == 1:
            save_file({"a": torch.zeros(4), "w": torch.full((4,), 2.0)}, tmp_path / "a.safetensors")
        return looked[-1]

    monkeypatch.setattr(safetensors_folder, "read", overtaken)
    state = {"w": torch.zeros(4)}
    dcp_engine.load_safetensors(state, tmp_path, no_dist=True)
    assert state["w"].tolist() == [2.0] * 4
    assert len(looked) == 2


def test_a_rank_may_have_a_copy_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a file in an image, of which each node has one: rank 0 sees other inodes."""
    (tmp_path / "one").mkdir()
    save_file({"w": torch.ones(4)}, tmp_path / "one" / SINGLE)
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    look = safetensors_folder.read
    monkeypatch.setattr(safetensors_folder, "read", lambda _, keys: look(open_store(str(tmp_path / "other")), keys))
    state = {"w": torch.zeros(4)}
    dcp_engine.load_safetensors(state, tmp_path / "one", no_dist=True)
    assert state["w"].tolist() == [1.0] * 4


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"neither model\.safetensors nor"):
        load(tmp_path)
    save_file({"b": torch.ones(2)}, tmp_path / SINGLE)
    with pytest.raises(StateMismatch, match="does not hold a"):
        dcp_engine.load_safetensors({"a": torch.ones(2)}, tmp_path, no_dist=True)
    with pytest.raises(StateMismatch, match="keys: nothing is chosen by x"):
        dcp_engine.load_safetensors({"a": torch.ones(2)}, tmp_path, keys={"x": "y"}, no_dist=True)


def _shard(folder: Path) -> Path:
    return next(folder.glob("model-*"))


def _cut(folder: Path) -> None:
    path = _shard(folder)
    path.write_bytes(path.read_bytes()[:-1])


def _gone(folder: Path) -> None:
    _shard(folder).unlink()


def _index(folder: Path, **files: str) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= files
    (folder / INDEX).write_text(json.dumps(index))


def _header(folder: Path, length: int) -> None:
    path = _shard(folder)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])


DAMAGES: Final[dict[str, tuple[Callable[[Path], object], str]]] = {
    "a file is cut off": (_cut, r"model-\w+-00001-of-00001\.safetensors: .* does not lie in it whole"),
    "a file is gone": (_gone, r"model-\w+-00001-of-00001\.safetensors: is missing"),
    "the index is none": (lambda folder: (folder / INDEX).write_text("{}"), "not an index"),
    "the index names more": (lambda folder: _index(folder, x=_shard(folder).name), "does not hold x"),
    "the index leads out": (lambda folder: _index(folder, x="../secret"), "is no file of this folder"),
    "the header is longer than the file": (lambda folder: _header(folder, 90_000_000), "its header would end at"),
    "the header is endless": (lambda folder: _header(folder, 1 << 60), "does not begin as"),
}


@pytest.mark.adversary
@pytest.mark.parametrize(("damage", "words"), DAMAGES.values(), ids=DAMAGES)
def test_files_that_claim_what_is_not_there_are_refused(
    tmp_path: Path, damage: Callable[[Path], object], words: str
) -> None:
    dcp_engine.save({"model": {"scalar": torch.ones(())}}, tmp_path / "run", no_dist=True)
    dcp_engine.export(tmp_path / "run", tmp_path / "hf")
    damage(tmp_path / "hf")
    with pytest.raises(CheckpointCorrupted, match=words):
        dcp_engine.load_safetensors({"scalar": torch.zeros(())}, tmp_path / "hf", no_dist=True)
