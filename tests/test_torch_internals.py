"""What we assume of torch's private names, a test for each, under each torch; one module alone touches them."""

import ast
import errno
import io
import mmap
import os
import pickle
import time
import zipfile
from collections.abc import Iterator
from datetime import timedelta
from functools import cache
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._shard.sharded_tensor import Shard as ShardOfTensor  # type: ignore[attr-defined]
from torch.distributed.checkpoint import DefaultSavePlanner
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, Metadata
from torch.distributed.checkpoint.planner import SavePlanner
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from dcp_engine import torch_internals, torch_messages
from rank_group import run_ranks, values

WORKER = Path(__file__).parent.parent / "worker"
PRIVATE_HERE = WORKER / "dcp_engine/torch_internals.py"


# Nobody else touches them


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def _touched(source: str) -> Iterator[str]:
    """Give the private names of torch that a module imports, reaches through `torch`, or overrides by `getattr`."""
    tree = ast.parse(source)
    torches = {"torch"}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in names if any(map(_is_private, name.split("."))))
            torches.update(alias.asname or alias.name for alias in node.names)
        if isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.split(".")[0] == "torch"]
            yield from (alias.name for alias in ours if any(map(_is_private, alias.name.split("."))))
            torches.update(alias.asname for alias in ours if alias.asname)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and _root(node) in torches:
            yield ast.unparse(node)


def _root(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


OWN_AND_OTHERS = {
    "atexit._run_exitfuncs": "runs what was registered, without the end of the process",
    "BaseProcess._bootstrap": "the frame in which multiprocessing runs a child",
    "copyreg._slotnames": "the attributes of a class with __slots__, as pickle finds them",
    "handle._run": "an AsyncSave, by the function that makes it",
    "os._exit": "the documented name",
    "part._split": "a Read of the same class",
    "self._fs._parent": "fsspec's",
    "sys._current_frames": "the documented name",
    "sys._getframe": "the documented name",
    "threading._register_atexit": "as concurrent.futures does",
}
"""Private names of other objects than `self` that stand in the worker and the engine: none is torch's."""


def _modules() -> list[Path]:
    return [
        path
        for name in ("dcp_engine", "dcp_worker")
        for path in sorted((WORKER / name).rglob("*.py"))
        if path != PRIVATE_HERE
    ]


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(WORKER)))
def test_no_other_module_touches_a_private_name_of_torch(path: Path) -> None:
    assert not list(_touched(path.read_text()))


def test_every_private_attribute_of_another_object_is_known_not_to_be_torchs() -> None:
    found = set()
    for path in _modules():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and _is_private(node.attr):
                of = ast.unparse(node.value)
                if of not in {"self", "cls", "super()"}:
                    found.add(f"{of}.{node.attr}")
    assert found <= OWN_AND_OTHERS.keys()


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("from torch._utils import a", ["torch._utils.a"]),
        ("from torch.utils import _pytree", ["torch.utils._pytree"]),
        ("import torch._dynamo", ["torch._dynamo"]),
        ("import torch\ntorch._utils.a()", ["torch._utils"]),
        ("from torch import distributed as dist\ndist._x.b", ["dist._x"]),
        ("from torch.utils import data\nfrom other import _x\n_x._y", []),
    ],
)
def test_the_check_sees_each_way_to_a_private_name(source: str, named: list[str]) -> None:
    assert list(_touched(source)) == named


# Tensors


class _Answers(torch.Tensor):
    @classmethod
    def __torch_function__(cls, *_: Any, **__: Any) -> Any:
        return "whatever it likes"


def test_without_torch_function_a_subclass_does_not_answer_for_itself() -> None:
    tensor = torch.zeros(2).as_subclass(_Answers)
    assert str(tensor.detach()) == "whatever it likes"
    with torch_internals.without_torch_function():
        assert tensor.detach().shape == (2,)


def test_is_functional_tells_a_stand_in_of_a_trace() -> None:
    assert not torch_internals.is_functional(torch.zeros(2))
    assert torch_internals.is_functional(torch._to_functional_tensor(torch.zeros(2)))


def test_is_in_transform_tells_a_tensor_inside_vmap() -> None:
    seen: list[bool] = []

    def see(row: torch.Tensor) -> torch.Tensor:
        seen.append(torch_internals.is_in_transform(row))
        return row

    torch.vmap(see)(torch.zeros(2, 2))
    assert seen == [True]
    assert not torch_internals.is_in_transform(torch.zeros(2))


def test_fake_and_functional_tensors_are_tensors() -> None:
    assert issubclass(torch_internals.FakeTensor, torch.Tensor)
    assert issubclass(torch_internals.FunctionalTensor, torch.Tensor)
    with FakeTensorMode():
        assert isinstance(torch.zeros(2), torch_internals.FakeTensor)


def test_a_traceable_wrapper_has_tensor_flatten() -> None:
    assert not torch_internals.is_traceable_wrapper_subclass(torch.zeros(2))
    assert hasattr(torch_internals.AsyncCollectiveTensor, "wait")


def test_narrow_cuts_a_view_of_a_box() -> None:
    whole = torch.arange(12).reshape(3, 4)
    part = torch_internals.narrow_tensor_by_index(whole, [1, 2], [2, 1])
    assert part.tolist() == [[6], [10]]
    assert part.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def _on_dtensors(rank: int) -> list[object]:
    del rank
    mesh = init_device_mesh("cpu", (2,))
    sharded = distribute_tensor(torch.arange(3.0), mesh, [Shard(0)])
    planned = torch_internals.compute_local_shape_and_global_offset(sharded.shape, mesh, sharded.placements)
    local = torch_internals.local_tensor(sharded)
    whole = distribute_tensor(torch.arange(3.0), mesh, [Replicate()])
    same = torch_internals.local_tensor(whole).data_ptr() == whole.to_local().data_ptr()
    return [[tuple(part) for part in planned], type(local) is torch.Tensor, local.tolist(), same]


def test_the_part_of_a_dtensor_that_a_rank_has() -> None:
    assert values(run_ranks(2, _on_dtensors)) == [
        [[(2,), (0,)], True, [0.0, 1.0], True],
        [[(1,), (2,)], True, [2.0], True],
    ]


def _on_sharded_tensors(rank: int) -> list[object]:
    part = ShardOfTensor.from_tensor_and_offsets(torch.zeros(2), [2 * rank], rank)
    made = torch_internals.ShardedTensor._init_from_local_shards([part], 4)
    [shard] = made.local_shards()
    return [
        torch_internals.group_of_shards(made) is dist.group.WORLD,
        shard.metadata.shard_sizes,
        shard.tensor.tolist(),
    ]


def test_a_sharded_tensor_has_a_group_and_local_shards() -> None:
    assert values(run_ranks(2, _on_sharded_tensors)) == [[True, [2], [0.0, 0.0]]] * 2


# The container that torch.save writes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.uint16, torch.float8_e4m3fn])
def test_torch_save_names_the_rebuild_function_that_we_name(dtype: torch.dtype) -> None:
    buffer = io.BytesIO()
    torch.save(torch.zeros(2).to(dtype), buffer)
    with zipfile.ZipFile(buffer) as container:
        pickled = container.read("archive/data.pkl")
    newer = dtype in torch_internals.types_without_storage()
    named = torch_internals.REBUILD_TENSOR_OF_TYPE if newer else torch_internals.REBUILD_TENSOR
    assert named.__name__.encode() in pickled
    storage = "UntypedStorage" if newer else torch_internals.storage_names()[dtype]
    assert storage.encode() in pickled
    assert isinstance(getattr(torch, storage), type)


def test_the_rebuild_functions_take_what_we_pass() -> None:
    common = ["storage", "storage_offset", "size", "stride", "requires_grad", "backward_hooks"]
    assert [*signature(torch_internals.REBUILD_TENSOR).parameters][:6] == common
    assert [*signature(torch_internals.REBUILD_TENSOR_OF_TYPE).parameters][:7] == [*common, "dtype"]


def test_no_type_is_of_both_kinds() -> None:
    assert not {*torch_internals.types_without_storage()} & torch_internals.storage_names().keys()


def test_a_storage_info_is_pickled_by_the_name_that_stock_dcp_reads() -> None:
    info = torch_internals.StorageInfo("__0_0.distcp", 3, 5)
    assert (info.relative_path, info.offset, info.length) == ("__0_0.distcp", 3, 5)
    assert b"torch.distributed.checkpoint.filesystem" in pickle.dumps(info)
    assert pickle.loads(pickle.dumps(info)) == info


# Process groups


def _on_own_group(rank: int) -> list[object]:
    store = torch_internals.default_store("a prefix")
    key = f"{rank}"
    store.set(key, "here")
    before = len([*torch_internals.groups()])
    made = torch_internals.connect_gloo(store, "a name", [0, 1], rank, timedelta(seconds=20))
    box = [rank]
    dist.broadcast_object_list(box, group=made, group_src=1)
    after = [*torch_internals.groups()]
    torch_internals.set_timeout(made, timedelta(milliseconds=200))
    said = ""
    if rank == 0:
        try:
            dist.recv(torch.zeros(1), group=made, group_src=1)
        except RuntimeError as error:
            said = str(error)
    dist.barrier()
    ranks = dist.get_process_group_ranks(made)
    again = dist.new_group([0, 1], backend="gloo")
    assert isinstance(again, dist.ProcessGroup)
    dist.barrier(again)
    return [box, store.get(key), ranks, len(after) - before, made in after, bool(torch_messages.TIMED_OUT.search(said))]


@pytest.mark.parametrize("debug", ["OFF", "DETAIL"])
def test_a_group_of_our_own_connects_times_out_and_shifts_no_other(monkeypatch: pytest.MonkeyPatch, debug: str) -> None:
    monkeypatch.setenv("TORCH_DISTRIBUTED_DEBUG", debug)
    found = values(run_ranks(2, _on_own_group))
    assert [each[:5] for each in found] == [[[1], b"here", [0, 1], 1, True]] * 2
    assert found[0][5]


# Planning and state dicts


def test_a_state_dict_is_flattened_to_dcps_names_and_back() -> None:
    flat, paths = torch_internals.flatten_state_dict({"a": {"b": [1, torch.zeros(1)]}, "c": 2})
    assert [*flat] == ["a.b.0", "a.b.1", "c"] or [*flat] == ["a.b", "c"]
    made: dict[str, Any] = {}
    for name, value in flat.items():
        torch_internals.set_element(made, paths[name], value)
    assert made["c"] == 2
    assert [*made["a"]] == ["b"]


def test_the_leaves_of_a_tree_are_its_values() -> None:
    assert torch_internals.tree_leaves({"a": [1, (2,)], "b": 3}) == [1, 2, 3]


def test_the_empty_planner_asks_whether_to_include_a_key() -> None:
    assert [*signature(torch_internals.EmptyStateDictLoadPlanner._should_include_key).parameters][1:] == [
        "key",
        "metadata",
    ]
    asked: list[str] = []

    class Planner(torch_internals.EmptyStateDictLoadPlanner):
        def _should_include_key(self, key: str, metadata: Metadata) -> bool:
            asked.append(key)
            return False

    Planner().set_up_planner({}, Metadata({"w": BytesStorageMetadata()}, {"w": ("w",)}), is_coordinator=True)  # type: ignore[no-untyped-call]
    assert asked == ["w"]


def test_the_stager_copies_by_methods_that_we_override() -> None:
    stager = torch_internals.StateDictStager
    assert [*signature(stager._offload_tensor).parameters] == ["self", "x", "memo", "non_blocking"]
    assert [*signature(stager._keep_alive).parameters][:3] == ["self", "x", "memo"]
    assert "non_blocking" in signature(stager.deepcopy_with_tensor_offload).parameters
    asked: list[torch.Tensor] = []

    class Stager(stager):  # type: ignore[misc, valid-type]
        def _offload_tensor(self, x: torch.Tensor, memo: dict[int, Any], non_blocking: bool = False) -> torch.Tensor:  # noqa: FBT001, FBT002
            asked.append(x)
            return super()._offload_tensor(x, memo, non_blocking)  # type: ignore[no-any-return]

    made = Stager(pin_memory=False).deepcopy_with_tensor_offload({"w": torch.ones(2)}, {}, non_blocking=False)
    assert (len(asked), made["w"].tolist()) == (1, [1.0, 1.0])


def test_kept_plans_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = [name for name in vars(SavePlanner) if name.startswith("_cached_")]
    assert kept, "SavePlanner keeps plans in class attributes of these names"
    assert all(isinstance(getattr(SavePlanner, name), dict) for name in kept)
    assert "enable_plan_caching" in signature(DefaultSavePlanner).parameters
    for name in kept:
        monkeypatch.setattr(SavePlanner, name, {"a": "plan"})
    torch_internals.forget_kept_plans()
    assert not any(getattr(SavePlanner, name) for name in kept)


def test_a_parameter_is_named_as_in_the_state_dict() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    assert torch_internals.names_in_state_dict(model, "0.weight") == {"0.weight"}


def _on_ddp(rank: int) -> list[float]:
    model = nn.Module()
    model.register_buffer("own", torch.full((1,), float(rank)))
    model.register_buffer("ours", torch.full((1,), float(rank)))
    model.register_buffer("sent", torch.full((1,), float(rank)))
    model.register_parameter("w", nn.Parameter(torch.zeros(1)))
    model._ddp_params_and_buffers_to_ignore = ["own"]  # type: ignore[assignment] # as a model may say itself
    torch_internals.leave_to_ranks(model, ["ours"])
    nn.parallel.DistributedDataParallel(model)
    return [float(buffer) for buffer in model.buffers()]


def test_ddp_sends_neither_what_we_leave_out_nor_what_the_model_does() -> None:
    assert values(run_ranks(2, _on_ddp)) == [[0.0, 0.0, 0.0], [1.0, 1.0, 0.0]]


# Texts


@cache
def _libraries() -> tuple[Path, ...]:
    home = Path(torch.__file__).parent
    beside = [path for path in home.parent.glob("nvidia/**/libnccl.so*") if path.is_file()]
    return (*home.glob("lib/libtorch*.so"), *home.glob("lib/libc10*.so"), *beside)


def _stands_in_torch(text: str) -> bool:
    for path in _libraries():
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            if memory.find(text.encode()) >= 0:
                return True
    return False


IN_LIBRARIES = {
    "closed": "Connection closed by peer",
    "barrier": " failed to pass monitoredBarrier",
    "memory, CPU": "DefaultCPUAllocator: ",
    "memory, CUDA": "out of memory",
    "gloo": "gloo/transport/tcp/",
    "a type": "Invalid scalar type",
    "lengths": "op.preamble.length",
}


@pytest.mark.parametrize("text", IN_LIBRARIES.values(), ids=IN_LIBRARIES.keys())
def test_the_text_stands_in_torchs_libraries(text: str) -> None:
    assert _stands_in_torch(text)


@pytest.mark.skipif(not any("nccl" in path.name for path in _libraries()), reason="a torch without NCCL")
@pytest.mark.parametrize("text", ["NCCL", "invalid usage", "invalid argument"])
def test_the_text_stands_in_nccl(text: str) -> None:
    assert _stands_in_torch(text)


def test_the_kernel_says_what_we_match() -> None:
    assert os.strerror(errno.ECONNRESET) == torch_messages.CLOSED[1]
    assert os.strerror(errno.ENOMEM).lower() in torch_messages.NO_MEMORY


def _barrier_alone(rank: int) -> str:
    if rank:
        time.sleep(60)  # is ended once rank 0 has returned
    try:
        dist.monitored_barrier(timeout=timedelta(milliseconds=300), wait_all_ranks=True)
    except RuntimeError as error:
        return str(error)
    return ""


def test_the_barrier_names_the_ranks_that_did_not_come() -> None:
    said = run_ranks(3, _barrier_alone, ends=[0])[0].value
    found = torch_messages.ABSENT.search(said)
    assert found is not None, said
    assert found[1].replace(" ", "") == "1,2"


def _reduces_what_none_sends(rank: int) -> str:
    del rank
    try:
        dist.all_reduce(torch.zeros(2, dtype=torch.uint16))
    except RuntimeError as error:
        return str(error)
    return ""


def test_gloo_refuses_a_type_in_words_that_name_the_caller() -> None:
    for said in values(run_ranks(2, _reduces_what_none_sends)):
        assert any(mark in said.lower() for mark in torch_messages.OWN_FAULT), said


def _peer_dies(rank: int) -> str:
    if rank:
        os._exit(0)
    try:
        dist.recv(torch.zeros(1), 1)
    except RuntimeError as error:
        return str(error)
    return ""


def test_gloo_says_that_a_peer_closed_the_connection() -> None:
    [said, *_] = run_ranks(2, _peer_dies)
    assert any(mark in str(said.value) for mark in torch_messages.CLOSED), said


def test_an_allocation_that_fails_says_so() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert any(mark in str(raised.value).lower() for mark in torch_messages.NO_MEMORY)
