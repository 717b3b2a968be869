"""Situations of PyTorch's own tests of distributed checkpoints, in our words: rank programs under stock's names.

Each gets an empty folder, saves and loads through `torch.distributed.checkpoint` alone, and returns what it saw. Run on
stock DCP and on the engine the two must have seen the same.
"""

import contextlib
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed._shard import sharded_tensor
from torch.distributed._shard.sharded_tensor import ShardedTensor  # type: ignore[attr-defined] # torch exports nothing by name
from torch.distributed._shard.sharding_spec import ChunkShardingSpec
from torch.distributed.checkpoint import DefaultLoadPlanner, DefaultSavePlanner, format_utils
from torch.distributed.checkpoint._extension import StreamTransformExtension
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemWriter as StockWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.optimizer import load_sharded_optimizer_state_dict
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
from torch.distributed.checkpoint.state_dict_loader import _load_state_dict, _load_state_dict_from_keys
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, StateDictType, fully_shard
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import stock_names
from dcp_worker.rank_context import Place

STOCK: Final = "stock"
ENGINE: Final = "engine"


def run(place: Place, system: str, name: str, url: str) -> Any:
    """Run a situation in a gloo group, on stock DCP or on the engine."""
    address = f"tcp://{place.master_addr}:{place.master_port}"
    dist.init_process_group("gloo", init_method=address, rank=place.rank, world_size=place.world_size)
    torch.manual_seed(0)
    with warnings.catch_warnings(), _names(system):
        warnings.simplefilter("ignore")  # stock's own
        return SITUATIONS[name].program(Path(url))


@contextlib.contextmanager
def _names(system: str) -> Iterator[None]:
    with contextlib.nullcontext() if system == STOCK else stock_names.lead_to_the_engine():
        yield


class Net(nn.Module):
    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first = nn.Linear(8, width)
        self.norm = nn.BatchNorm1d(width)
        self.second = nn.Linear(width, 5)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.norm(self.first(rows)).relu())
        return found


class Losses:
    """A Stateful whose state holds a file in memory, as PyTorch's test has it."""

    def __init__(self, values: tuple[float, ...] = ()) -> None:
        self.step = torch.tensor(len(values))
        self.values = list(values)

    def state_dict(self) -> dict[str, Any]:
        buffer = io.BytesIO()
        torch.save(self.values, buffer)
        return {"step": self.step, "losses": buffer}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        state["losses"].seek(0)
        self.step, self.values = state["step"], torch.load(state["losses"])


def bits(value: Any) -> Any:
    """Return something that is equal where the values are, to the last bit, and that pickles."""
    if isinstance(value, DTensor):
        return bits(value.full_tensor())
    if isinstance(value, ShardedTensor):
        return [bits(shard.tensor) for shard in value.local_shards()]
    if isinstance(value, torch.Tensor):
        # A copy: FSDP1 frees the memory of what it shows, which it can't once numpy has seen it.
        raw = (
            value.detach().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().tobytes()
        )
        return str(value.dtype), tuple(value.shape), hashlib.sha256(raw).hexdigest()
    if isinstance(value, dict):
        return {key: bits(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [bits(each) for each in value]
    return value.getvalue() if isinstance(value, io.BytesIO) else value


def refused(step: Callable[[], object]) -> str:
    """Return how a call was refused: DCP's own exception, on every rank."""
    try:
        step()
    except CheckpointException:
        return "CheckpointException"
    return "not refused"


def module(url: Path) -> Any:
    saved, found = Net(), Net()
    dcp.save(saved.state_dict(), storage_writer=dcp.FileSystemWriter(path=url))
    state = found.state_dict()
    dcp.load(state, storage_reader=dcp.FileSystemReader(path=url))
    assert bits(state) == bits(saved.state_dict())
    return bits(state)


def nested(url: Path) -> Any:
    state: dict[str, Any] = {
        "a": [torch.arange(4), {"b": torch.ones(2, dtype=torch.bfloat16), "c": "text"}],
        "d": {"e": 1, "f": 2.5, "g": None, "h": True, "i": {1, 2}, "j": (1, "k")},
        "empty": {},
        "bytes": b"raw",
        "big": 10**30,
    }
    dcp.save(state, checkpoint_id=url)
    found: dict[str, Any] = {
        "a": [torch.zeros(4, dtype=torch.int64), {"b": torch.zeros(2, dtype=torch.bfloat16), "c": ""}],
        "d": {"e": 0, "f": 0.0, "g": 1, "h": False, "i": set(), "j": ()},
        "empty": {},
        "bytes": b"",
        "big": 0,
    }
    dcp.load(found, checkpoint_id=url)
    return bits(found)


def how_it_is_written(url: Path) -> Any:
    seen = []
    ways: list[dict[str, Any]] = [
        {"single_file_per_rank": False},
        {"thread_count": 3},
        {"sync_files": False},
        {"per_thread_copy_ahead": 1},
    ]
    for number, options in enumerate(ways):
        state = {f"w{name}": torch.full((50,), float(name)) for name in range(7)}
        dcp.save(state, storage_writer=dcp.FileSystemWriter(path=url / str(number), **options))
        found = {name: torch.zeros(50) for name in state}
        dcp.load(found, storage_reader=dcp.FileSystemReader(path=url / str(number)))
        seen.append(bits(found))
    return seen


def twice(url: Path) -> Any:
    seen = []
    for value in (1.0, 2.0):
        dcp.save({"w": torch.full((4,), value)}, storage_writer=dcp.FileSystemWriter(path=url))
        found = {"w": torch.zeros(4)}
        dcp.load(found, checkpoint_id=url)
        seen.append(bits(found))
    kept = dcp.FileSystemWriter(path=url, overwrite=False)
    seen.append(refused(lambda: dcp.save({"w": torch.zeros(4)}, storage_writer=kept)))
    dcp.load(found, checkpoint_id=url)
    return [*seen, bits(found)]


def one_writer_many_folders(url: Path) -> Any:
    writer, reader = dcp.FileSystemWriter(path=url / "0"), dcp.FileSystemReader(path=url / "0")
    seen = []
    for number in range(3):
        dcp.save({"w": torch.full((4,), float(number))}, storage_writer=writer, checkpoint_id=url / str(number))
    for number in reversed(range(3)):
        found = {"w": torch.zeros(4)}
        dcp.load(found, storage_reader=reader, checkpoint_id=url / str(number))
        seen.append(bits(found))
    return seen


def what_does_not_fit(url: Path) -> Any:
    dcp.save({"model": {"w": torch.ones(3, 4), "b": torch.ones(4)}, "n": 1}, checkpoint_id=url)
    less: dict[str, Any] = {"model": {"w": torch.zeros(3, 4)}}
    dcp.load(less, checkpoint_id=url)
    more: dict[str, Any] = {"model": {"w": torch.zeros(3, 4), "x": torch.full((2,), 7.0)}}
    partly = DefaultLoadPlanner(allow_partial_load=True)
    dcp.load(more, checkpoint_id=url, planner=partly)
    return [
        bits(less),
        bits(more),
        refused(lambda: dcp.load({"model": {"y": torch.zeros(1)}}, checkpoint_id=url)),
        refused(lambda: dcp.load({"model": {"w": torch.zeros(4, 4)}}, checkpoint_id=url)),
        refused(lambda: dcp.load({"n": 0}, checkpoint_id=url / "nothing")),
    ]


def other_types(url: Path) -> Any:
    values = torch.tensor([0.1, -2.5, 3e4, 1e-8])
    dcp.save({"w": values, "i": torch.arange(5)}, checkpoint_id=url)
    found = {"w": torch.zeros(4, dtype=torch.float64), "i": torch.zeros(5, dtype=torch.int64)}
    dcp.load(found, checkpoint_id=url)
    lower = {"w": torch.zeros(4, dtype=torch.bfloat16)}
    dcp.load(lower, checkpoint_id=url)
    return [bits(found), bits(lower)]


def layouts(url: Path) -> Any:
    whole = torch.arange(24.0).reshape(4, 6)
    state = {
        "t": whole.T,
        "s": whole[:, ::2],
        "x": whole[:1].expand(3, 6),
        "z": torch.zeros(()),
        "e": torch.zeros(0, 3),
    }
    dcp.save(state, checkpoint_id=url)
    found = {name: torch.zeros(value.shape) for name, value in state.items()}
    turned = {"t": torch.zeros(4, 6).T}
    dcp.load(found, checkpoint_id=url)
    dcp.load(turned, checkpoint_id=url)
    return [bits(found), bits(turned)]


def to_one_file_and_back(url: Path) -> Any:
    state = {"a": torch.arange(6.0), "b": {"c": torch.ones(2)}}
    dcp.save(state, checkpoint_id=url / "dcp")
    format_utils.dcp_to_torch_save(url / "dcp", url / "file.pt")
    format_utils.torch_save_to_dcp(url / "file.pt", url / "back")
    found = {"a": torch.zeros(6), "b": {"c": torch.zeros(2)}}
    dcp.load(found, checkpoint_id=url / "back")
    return [bits(torch.load(url / "file.pt")), bits(found)]


def without_a_template(url: Path) -> Any:
    dcp.save({"model": {"a": torch.ones(2), "b": torch.ones(3)}, "n": 4}, checkpoint_id=url)
    everything: dict[str, Any] = {}
    _load_state_dict(
        everything,
        storage_reader=dcp.FileSystemReader(path=url),
        planner=_EmptyStateDictLoadPlanner(),  # type: ignore[no-untyped-call]
        no_dist=True,
    )
    some = _load_state_dict_from_keys({"model.a"}, checkpoint_id=url)
    return [bits(everything), bits(some)]


def same_plan_twice(url: Path) -> Any:
    seen = []
    for number in range(3):
        planner = DefaultSavePlanner(enable_plan_caching=True)
        dcp.save({"w": torch.full((4,), float(number))}, checkpoint_id=url / str(number), planner=planner)
        found = {"w": torch.zeros(4)}
        dcp.load(found, checkpoint_id=url / str(number))
        seen.append(bits(found))
    return seen


def who_coordinates(url: Path) -> Any:
    rank = dist.get_rank()
    state = {"w": torch.arange(4.0), f"own{rank}": torch.full((2,), float(rank))}
    dcp.state_dict_saver._save_state_dict(state, dcp.FileSystemWriter(path=url / "1"), coordinator_rank=1)
    found = {name: torch.zeros_like(value) for name, value in state.items()}
    _load_state_dict(found, dcp.FileSystemReader(path=url / "1"), coordinator_rank=1)
    alone = {"w": torch.full((2,), float(rank))}
    dcp.save(alone, checkpoint_id=url / f"alone{rank}", no_dist=True)
    dcp.load(alone, checkpoint_id=url / f"alone{rank}", no_dist=True)
    return [bits(found), bits(alone)]


def who_has_what(url: Path) -> Any:
    """Keys in another order, keys of one rank alone, a rank without any."""
    rank = dist.get_rank()
    names = ["a", "b", "c"] if rank else ["c", "a", "b"]
    dcp.save({name: torch.full((3,), float(ord(name))) for name in names}, checkpoint_id=url / "order")
    ordered = {name: torch.zeros(3) for name in reversed(names)}
    dcp.load(ordered, checkpoint_id=url / "order")
    dcp.save({"only": torch.ones(3)} if rank else {}, checkpoint_id=url / "one")
    only = {} if rank else {"only": torch.zeros(3)}
    dcp.load(only, checkpoint_id=url / "one")
    return [bits(ordered), bits(only)]


def of_some_ranks(url: Path) -> Any:
    group = dist.new_group([0, 1])
    if dist.get_rank() > 1:
        return []
    state = {"w": torch.arange(4.0), "rank": torch.tensor(0)}
    dcp.save(state, checkpoint_id=url, process_group=group)
    found = {"w": torch.zeros(4), "rank": torch.tensor(9)}
    dcp.load(found, checkpoint_id=url, process_group=group)
    return bits(found)


def _chunked(dim: int, order: list[int]) -> ChunkShardingSpec:
    return ChunkShardingSpec(dim=dim, placements=[f"rank:{rank}/cpu" for rank in order])


def sharded_tensors(url: Path) -> Any:
    """Every way to divide a ShardedTensor into every other, uneven ones among them, and into plain tensors."""
    specs = [_chunked(dim, order) for dim in (0, 1) for order in ([0, 1], [1, 0])]
    seen = []
    for number, spec in enumerate(specs):
        torch.manual_seed(number)
        saved = sharded_tensor.rand(spec, 5, 7)
        dcp.save({"w": saved}, checkpoint_id=url / str(number))
        for other in specs:
            found = {"w": sharded_tensor.zeros(other, 5, 7)}
            dcp.load(found, checkpoint_id=url / str(number))
            seen.append(bits(found))
        plain = {"w": torch.zeros(5, 7)}
        dcp.load(plain, checkpoint_id=url / str(number))
        seen.append(bits(plain))
    dcp.save({"w": torch.arange(35.0).reshape(5, 7)}, checkpoint_id=url / "plain")
    found = {"w": sharded_tensor.zeros(specs[2], 5, 7)}
    dcp.load(found, checkpoint_id=url / "plain")
    return [*seen, bits(found)]


def _reshard(url: Path, mesh_of: Callable[[], Any], ways: list[tuple[Placement, ...]]) -> Any:
    whole = torch.arange(6 * 10.0).reshape(6, 10)
    seen = []
    for number, way in enumerate(ways):
        dcp.save({"w": distribute_tensor(whole, mesh_of(), way)}, checkpoint_id=url / str(number))
        for other in ways:
            found = {"w": distribute_tensor(torch.zeros(6, 10), mesh_of(), other)}
            dcp.load(found, checkpoint_id=url / str(number))
            assert bits(found["w"]) == bits(whole), (way, other)
            seen.append(bits(found["w"].to_local()))
    return seen


def dtensors(url: Path) -> Any:
    """Every placement on a line of ranks into every other."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return _reshard(url, lambda: mesh, [(Replicate(),), (Shard(0),), (Shard(1),)])


def dtensors_of_two_dimensions(url: Path) -> Any:
    """The same on a mesh of two by two, and from there to a line."""
    mesh = init_device_mesh("cpu", (2, 2))
    ways: list[tuple[Placement, ...]] = [
        (Replicate(), Replicate()),
        (Shard(0), Shard(1)),
        (Shard(1), Shard(0)),
        (Shard(0), Shard(0)),
        (Replicate(), Shard(1)),
    ]
    seen = _reshard(url, lambda: mesh, ways)
    line = {"w": distribute_tensor(torch.zeros(6, 10), init_device_mesh("cpu", (4,)), [Shard(1)])}
    dcp.load(line, checkpoint_id=url / "1")
    partial = DTensor.from_local(torch.ones(2), mesh, [Partial(), Replicate()])
    return [*seen, bits(line["w"].to_local()), bits(partial.redistribute(mesh, [Replicate(), Replicate()]))]


def _fsdp1() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = FullyShardedDataParallel(Net(), device_id=torch.device("cpu"), use_orig_params=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    return model, optimizer


def fsdp1(url: Path) -> Any:
    """Model and optimizer of FullyShardedDataParallel, by its own sharded state dicts."""
    saved, optimizer = _fsdp1()
    kind = FullyShardedDataParallel.state_dict_type
    with kind(saved, StateDictType.SHARDED_STATE_DICT):
        state = {"model": saved.state_dict(), "optim": FullyShardedDataParallel.optim_state_dict(saved, optimizer)}
        dcp.save(state, checkpoint_id=url)
    torch.manual_seed(1)
    found, other = _fsdp1()
    with kind(found, StateDictType.SHARDED_STATE_DICT):
        loaded = {"model": found.state_dict()}
        dcp.load(loaded, checkpoint_id=url)
        found.load_state_dict(loaded["model"])
        read = load_sharded_optimizer_state_dict(loaded["model"], "optim", dcp.FileSystemReader(path=url))
        flat = FullyShardedDataParallel.optim_state_dict_to_load(found, other, read["optim"])
        other.load_state_dict(flat)
    with kind(found, StateDictType.FULL_STATE_DICT), FullyShardedDataParallel.summon_full_params(found):
        values = {name: bits(value) for name, value in found.named_parameters()}
    states = [bits(dict(each)) for each in other.state_dict()["state"].values()]
    return [values, states]


def _trained(shard: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, torch.optim.Optimizer]:
    model = shard(Net())
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(4, 8)).sum().backward()
    optimizer.step()
    return model, optimizer


def _resumed(url: Path, shard: Callable[[nn.Module], nn.Module], *, background: bool = False) -> Any:
    """Save what was trained, load it into what was trained otherwise, and take a step with both."""
    model, optimizer = _trained(shard)

    def state(of: nn.Module, by: torch.optim.Optimizer) -> dict[str, Any]:
        return dict(zip(("model", "optim"), get_state_dict(of, by), strict=True))

    losses = Losses((0.5, 0.25))
    values = state(model, optimizer) | {"losses": losses, "n": 3}
    if background:
        pending = dcp.async_save(values, checkpoint_id=url)
        assert isinstance(pending, Future)
        pending.result()
    else:
        dcp.save(values, checkpoint_id=url)
    torch.manual_seed(1)
    other, again = _trained(shard)
    found = state(other, again) | {"losses": Losses(), "n": 0}
    dcp.load(found, checkpoint_id=url)
    set_state_dict(other, again, model_state_dict=found["model"], optim_state_dict=found["optim"])
    seen = [bits(state(other, again)), found["losses"].values, found["n"]]
    for each, by in ((model, optimizer), (other, again)):
        by.zero_grad()
        each(torch.full((4, 8), 0.5)).sum().backward()
        by.step()
    assert bits(other.state_dict()) == bits(model.state_dict())
    return seen


def _sharded(net: nn.Module, mesh: DeviceMesh) -> nn.Module:
    fully_shard(net, mesh=mesh)  # in place
    return net


def fsdp2(url: Path) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return _resumed(url, lambda net: _sharded(net, mesh))


def fsdp2_in_the_background(url: Path) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    return _resumed(url, lambda net: _sharded(net, mesh), background=True)


def hsdp(url: Path) -> Any:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    return _resumed(url, lambda net: _sharded(net, mesh))


def ddp(url: Path) -> Any:
    return _resumed(url, nn.parallel.DistributedDataParallel)


def tensor_parallel(url: Path) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))

    def made(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 5))
        return parallelize_module(net, mesh, {"0": ColwiseParallel(), "2": RowwiseParallel()})

    saved, found = made(0), made(1)
    dcp.save({"model": saved.state_dict()}, checkpoint_id=url)
    state = {"model": found.state_dict()}
    dcp.load(state, checkpoint_id=url)
    assert bits(state["model"]) == bits(saved.state_dict())
    return bits(state)


def what_stock_notes(url: Path) -> Any:
    """The Metadata that a save returns and a reader reads: who saved, in which shapes and types."""
    made = dcp.save({"w": torch.ones(2, 3), "n": 1}, storage_writer=dcp.FileSystemWriter(path=url))
    reader = dcp.FileSystemReader(path=url)
    dcp.load({"w": torch.zeros(2, 3)}, storage_reader=reader)
    read = reader.read_metadata()
    assert read.storage_meta is not None
    assert read.storage_meta.save_id
    seen = []
    for found in (made, read):
        entry = found.state_dict_metadata["w"]
        assert isinstance(entry, TensorStorageMetadata)
        chunks = [(tuple(chunk.offsets), tuple(chunk.sizes)) for chunk in entry.chunks]
        seen.append([sorted(found.state_dict_metadata), tuple(entry.size), str(entry.properties.dtype), chunks])
    return seen


def save_rank_local(url: Path) -> Any:
    dcp.save({"w": torch.ones(2)}, storage_writer=dcp.FileSystemWriter(path=url), use_collectives=False)


def load_a_class_of_ones_own(url: Path) -> Any:
    dcp.save({"o": Own()}, checkpoint_id=url)
    dcp.load({"o": None}, checkpoint_id=url)


def load_what_passed_an_extension(url: Path) -> Any:
    writer = StockWriter(url, _extensions=[Inverted()])
    dcp.save({"w": torch.ones(2)}, storage_writer=writer)
    dcp.load({"w": torch.zeros(2)}, storage_reader=stock_names.FileSystemReader(path=url))


class Own:
    """A class that no list of safe ones has."""


class Inverted(StreamTransformExtension):
    """Turns every bit on its way to the file."""

    @staticmethod
    def registry_name() -> str:
        return "stream.inverted"

    @staticmethod
    def from_descriptor(version: str) -> "Inverted":
        return Inverted()

    def get_descriptor(self) -> str:
        return f"{self.registry_name()}/1"

    def transform_to(self, output: Any) -> Any:
        return _InvertedFile(output)

    def transform_from(self, input: Any) -> Any:  # noqa: A002 - as torch names it
        raise NotImplementedError


class _InvertedFile(io.RawIOBase):
    def __init__(self, file: Any) -> None:
        self.file = file

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.file.write(bytes(255 - byte for byte in bytes(data)))
        return len(data)


class Situation(NamedTuple):
    program: Callable[[Path], Any]
    ranks: int = 1


SITUATIONS: Final[dict[str, Situation]] = {
    "a module's state": Situation(module),
    "nested values and objects": Situation(nested),
    "options of how it is written": Situation(how_it_is_written),
    "a folder used twice": Situation(twice),
    "one writer, many folders": Situation(one_writer_many_folders),
    "names and shapes that do not fit": Situation(what_does_not_fit),
    "other types": Situation(other_types),
    "layouts": Situation(layouts),
    "to one file and back": Situation(to_one_file_and_back),
    "without a template": Situation(without_a_template),
    "plans that are kept": Situation(same_plan_twice, 2),
    "another coordinator, and none": Situation(who_coordinates, 2),
    "who has what": Situation(who_has_what, 2),
    "some of the ranks": Situation(of_some_ranks, 3),
    "ShardedTensor into every other": Situation(sharded_tensors, 2),
    "DTensor into every other": Situation(dtensors, 2),
    "DTensor on two dimensions": Situation(dtensors_of_two_dimensions, 4),
    "FSDP1": Situation(fsdp1, 2),
    "FSDP2": Situation(fsdp2, 2),
    "FSDP2 in the background": Situation(fsdp2_in_the_background, 2),
    "HSDP": Situation(hsdp, 4),
    "DDP": Situation(ddp, 2),
    "tensor parallelism": Situation(tensor_parallel, 2),
    "what stock notes": Situation(what_stock_notes),
}


REFUSED: Final[dict[str, tuple[Callable[[Path], Any], str]]] = {
    "use_collectives=False": (save_rank_local, "a checkpoint has one commit"),
    "a class of one's own": (load_a_class_of_ones_own, "Own: not on the allow-list"),
    "stream extensions": (load_what_passed_an_extension, "was saved through stream extensions"),
}
"""What the engine refuses on purpose: the program, and words of what it says."""
