"""What we assume of torch's private names, a test for each name, under each torch."""

import io
import pickle
import time
import zipfile
from datetime import timedelta
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

pytestmark = pytest.mark.tier("ranks")


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
    said, began = "", time.monotonic()
    if rank == 0:
        try:
            dist.broadcast(torch.zeros(1), group=made, group_src=1)
        except RuntimeError as error:
            said = str(error)
    soon = time.monotonic() - began < 10
    dist.barrier()
    ranks = dist.get_process_group_ranks(made)
    again = dist.new_group([0, 1], backend="gloo")
    assert isinstance(again, dist.ProcessGroup)
    dist.barrier(again)
    timed_out = bool(torch_messages.TIMED_OUT.search(said)) and soon
    return [box, store.get(key), ranks, len(after) - before, made in after, timed_out]


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
