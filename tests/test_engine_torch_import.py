"""`load_torch`: files of `torch.save` into shards, and what such files may not claim."""

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributed.checkpoint.format_utils import torch_save_to_dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import dcp_engine
import export_situations as situations
import s3_server
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound, EngineError, InvalidOption, StateMismatch
from rank_group import run_ranks, values

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


def load(path: Path, names: dict[str, torch.Tensor], **options: Any) -> dict[str, torch.Tensor]:
    """Load tensors like those given; return them."""
    state = {name: torch.zeros(value.shape, dtype=value.dtype) for name, value in names.items()}
    dcp_engine.load_torch(state, path, no_dist=True, **options)
    return state


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()


def test_every_type_and_layout_comes_back(tmp_path: Path) -> None:
    """Transposed, cut out of another, repeated, without values; tensors that share a storage, and parameters."""
    base = torch.arange(2000.0).view(40, 50)
    state = {
        **situations.of_every_type(),
        "base": base,
        "transposed": base.t(),
        "channels last": torch.randn(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
        "cut": base[3:9, 2:7],
        "steps": base[::3, ::2],
        "repeated": torch.ones(1, 4).expand(3, 4),
        "one": base[2:3, 4],
        "none": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(base),
        "scalar": torch.tensor(3.0),
    }
    torch.save(state, tmp_path / "all.pt")
    found = load(tmp_path / "all.pt", state)
    assert [name for name, value in state.items() if bits(found[name]) != bits(value)] == []


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(0, 5), max_size=4),
    order=st.permutations(range(4)),
    cuts=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 3)), min_size=4, max_size=4),
)
def test_any_view_is_read_where_it_lies(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], order: list[int], cuts: list[tuple[int, int]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "view.pt"
    whole = torch.arange(float(torch.Size(shape).numel())).view(shape)
    view = whole[tuple(slice(start, None, step) for start, step in cuts[: len(shape)])]
    view = view.permute([dim for dim in order if dim < len(shape)])
    torch.save({"view": view}, path)
    assert torch.equal(load(path, {"view": view})["view"], view)


def test_a_state_comes_back_nested_as_stock_dcp_has_it(tmp_path: Path) -> None:
    """Through `torch_save_to_dcp` and a load of that checkpoint; with lists, numbers, and a cast."""
    model = torch.nn.Linear(30, 20)
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 30)).sum().backward()
    optimizer.step()
    extra = {"epoch": 3, "losses": [1.5, torch.ones(2)]}
    torch.save({"model": model.state_dict(), "optim": optimizer.state_dict(), **extra}, tmp_path / "all.pt")
    torch_save_to_dcp(tmp_path / "all.pt", tmp_path / "run")

    def empty() -> dict[str, Any]:
        fresh = torch.nn.Linear(30, 20).to(torch.bfloat16).state_dict()
        moments = {name: torch.zeros_like(value) for name, value in optimizer.state_dict()["state"][0].items()}
        return {"model": fresh, "optim": {"state": {"0": moments}}, "epoch": 0, "losses": [0, torch.zeros(2)]}

    found, expected = empty(), empty()
    info = dcp_engine.load_torch(found, tmp_path / "all.pt", no_dist=True)
    dcp_engine.load(expected, tmp_path / "run", no_dist=True)
    assert info.entries is not None
    assert info.entries.converted == 2
    assert repr(found) == repr(expected)
    assert found["epoch"] == 3
    assert torch.equal(found["optim"]["state"]["0"]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def load_on_a_mesh(rank: int, url: str, options: dict[str, Any]) -> list[bool]:
    """Load into shards of both dimensions, converted, under names of one's own."""
    del rank
    assert dist.get_world_size() == 4
    mesh = init_device_mesh("cpu", (2, 2))
    full = torch.arange(7 * 5.0).view(7, 5)
    ways = [(Shard(0), Shard(1)), (Shard(1), Shard(0)), (Replicate(), Shard(0))]
    state: dict[str, Any] = {
        "model": {str(at): distribute_tensor(torch.zeros(7, 5).bfloat16(), mesh, way) for at, way in enumerate(ways)},
        "epoch": 0,
    }
    dcp_engine.load_torch(state, url, keys={"net.w*": "model.*", "epoch": "epoch"}, storage_options=options)
    whole = [value.full_tensor() for value in state["model"].values()]
    return [state["epoch"] == 5, *(torch.equal(value, full.bfloat16()) for value in whole)]


def test_shards_are_filled_from_a_store(tmp_path: Path, s3: s3_server.S3Server) -> None:
    """Of a file that an export made, and whose second tensor lies transposed in another one's storage."""
    full = torch.arange(7 * 5.0).view(7, 5)
    state = {"net": {"w0": full, "w1": full.t().contiguous().t(), "w2": full}, "epoch": 5}
    dcp_engine.save(state, tmp_path / "run", no_dist=True)
    dcp_engine.export(tmp_path / "run", s3.url(f"{tmp_path.name}.pt"), format="torch", storage_options=s3.options)
    torch.save(state, tmp_path / "own.pt")
    for url, options in ((s3.url(f"{tmp_path.name}.pt"), s3.options), (str(tmp_path / "own.pt"), {})):
        assert values(run_ranks(4, load_on_a_mesh, url, options)) == [[True] * 4] * 4


class Opaque:
    """A class that nobody allowed."""


def rezipped(data: bytes, change: dict[str, bytes | None], *, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a container with other members; None leaves one out."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w", method) as new:
        for name in old.namelist():
            key = name.partition("/")[2]
            if (member := change.get(key, old.read(name))) is not None:
                new.writestr(name, member)
    return made.getvalue()


def saved(state: object) -> bytes:
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue()


def shared(levels: int) -> dict[str, Any]:
    """Return a dict that holds two of what is one level below it, at each level."""
    state: dict[str, Any] = {"w": torch.ones(4)}
    for _ in range(levels):
        state = {"a": state, "b": state}
    return state


def in_pieces(tensors: int) -> dict[str, torch.Tensor]:
    """Return tensors over one small storage, of which each value lies apart from the next."""
    base = torch.zeros(200_000, dtype=torch.uint8)
    return {str(number): base[::2] for number in range(tensors)}


GOOD = saved({"w": torch.arange(4.0)})


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"", CheckpointCorrupted, "torch 1.6 or later writes: it begins otherwise"),
        (pickle.dumps({"w": 1}), CheckpointCorrupted, "torch 1.6 or later writes: it begins otherwise"),
        (GOOD[:-30], CheckpointCorrupted, "it does not end as torch ends it"),
        (rezipped(GOOD, {}, method=zipfile.ZIP_DEFLATED), CheckpointCorrupted, "is not simply stored"),
        (rezipped(GOOD, {"data.pkl": None}), CheckpointCorrupted, "it holds no data.pkl"),
        (rezipped(GOOD, {"data/0": None}), CheckpointCorrupted, "more bytes than are stored"),
        (rezipped(GOOD, {"data/0": b"short"}), CheckpointCorrupted, "more bytes than are stored"),
        (rezipped(GOOD, {"byteorder": b"big"}), CheckpointCorrupted, "big-endian"),
        (rezipped(GOOD, {"data.pkl": b"\x8d" + b"\xff" * 8}), CheckpointCorrupted, "no file that torch.save writes"),
        (rezipped(GOOD, {"data.pkl": b"cos\nsystem\n(S'true'\ntR."}), InvalidOption, r"os\.system"),
        (saved({"w": Opaque()}), InvalidOption, r"Opaque; if you trust it, pass the classes in allow"),
        (saved({"w": torch.ones(1).expand(1 << 28)}), CheckpointCorrupted, "far more values than it has bytes"),
        (saved(shared(60)), CheckpointCorrupted, "its entries are far more than it has bytes"),
        (saved(in_pieces(12)), InvalidOption, "lies in too many pieces"),
        (saved([torch.ones(2)]), InvalidOption, "holds a list; a dict of tensors can be loaded"),
        (saved({"v": torch.ones(4)}), StateMismatch, "does not hold w"),
    ],
)
def test_what_is_no_honest_file_is_refused(tmp_path: Path, data: bytes, error: type[EngineError], words: str) -> None:
    (tmp_path / "m.pt").write_bytes(data)
    with pytest.raises(error, match=words):
        load(tmp_path / "m.pt", {"w": torch.ones(4)})


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointNotFound, match=r"m\.pt.*there is no such file"):
        load(tmp_path / "m.pt", {"w": torch.ones(4)})
