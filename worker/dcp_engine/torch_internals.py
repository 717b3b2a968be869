"""Every private name of torch that we use, each with the reason why no public one does.

No other module touches a private name of torch (`tests/test_torch_private.py`). `tests/test_torch_internals.py` says
what we assume of each name here: when a new torch breaks one, that test says which. Checked on torch 2.13 to 2.15.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, Final, cast

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch._subclasses.functional_tensor import FunctionalTensor
from torch.distributed import distributed_c10d as c10d
from torch.distributed._functional_collectives import AsyncCollectiveTensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed._shard.sharded_tensor import ShardedTensor  # type: ignore[attr-defined] # torch exports nothing by name
from torch.distributed.checkpoint._nested_dict import flatten_state_dict
from torch.distributed.checkpoint._state_dict_stager import StateDictStager
from torch.distributed.checkpoint._traverse import OBJ_PATH, set_element
from torch.distributed.checkpoint.default_planner import _EmptyStateDictLoadPlanner as EmptyStateDictLoadPlanner
from torch.distributed.checkpoint.filesystem import _StorageInfo as StorageInfo
from torch.distributed.checkpoint.planner import SavePlanner
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.nn.parallel import DistributedDataParallel
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from torch.utils._pytree import tree_leaves

__all__ = [
    "OBJ_PATH",
    "AsyncCollectiveTensor",
    "EmptyStateDictLoadPlanner",
    "FakeTensor",
    "FakeTensorMode",
    "FunctionalTensor",
    "ShardedTensor",
    "StateDictStager",
    "StorageInfo",
    "compute_local_shape_and_global_offset",
    "flatten_state_dict",
    "is_traceable_wrapper_subclass",
    "narrow_tensor_by_index",
    "set_element",
    "tree_leaves",
]
# Why each of these, under its own name:
#
# AsyncCollectiveTensor      a tensor that a collective has yet to fill; only its class tells it from any other wrapper
# FakeTensor, FunctionalTensor  stand-ins of a trace, without values: a save has to refuse them
# ShardedTensor              what FSDP1's state dicts hold; torch exports it under no public name
# StateDictStager            the copy in host memory, with storages that are shared copied once. We override
#                            `_offload_tensor` and call `_keep_alive`
# FakeTensorMode             a context in which torch.load makes tensors without memory, as its documentation says
# StorageInfo                DCP's note of where an item lies, pickled into `.metadata`, where stock DCP reads it
# EmptyStateDictLoadPlanner  makes a state dict of what the checkpoint holds. We override `_should_include_key`
# OBJ_PATH, set_element      puts a value at its path in nested dicts and lists, as DCP's planner does
# flatten_state_dict         gives the entries the names that DCP's planner gives them
# narrow_tensor_by_index     cuts a box out of a tensor, as DCP's reader does
# compute_local_shape_and_global_offset  which part of a DTensor a rank should have
# is_traceable_wrapper_subclass  whether a tensor is taken apart by __tensor_flatten__
# tree_leaves                all values of nested dicts, lists and registered classes


# Tensors


without_torch_function: Final[Callable[[], AbstractContextManager[None]]] = torch._C.DisableTorchFunctionSubclass
"""A context in which a tensor subclass does not answer for itself: torch's C++ does."""
is_functional: Final[Callable[[torch.Tensor], bool]] = torch._is_functional_tensor
"""Whether a tensor is functorch's or AOT's stand-in for another; torch has no other way to ask."""
is_in_transform: Final[Callable[[torch.Tensor], bool]] = torch._C._functorch.is_functorch_wrapped_tensor
"""Whether a tensor stands for a batch or a gradient level inside of vmap or grad."""


def local_tensor(tensor: DTensor) -> torch.Tensor:
    """Return a DTensor's own memory on this rank; the public `to_local()` goes through autograd."""
    return tensor._local_tensor


def group_of_shards(tensor: ShardedTensor) -> dist.ProcessGroup:
    """Return the process group of a ShardedTensor, for which it has no public attribute."""
    return tensor._process_group


# The container that torch.save writes


REBUILD_TENSOR: Final[Callable[..., torch.Tensor]] = torch._utils._rebuild_tensor_v2
"""The function that a pickled tensor names, for types that have a storage class of their own."""
REBUILD_TENSOR_OF_TYPE: Final[Callable[..., torch.Tensor]] = torch._utils._rebuild_tensor_v3
"""The same for types that have none: it takes the type as its last argument."""
types_without_storage: Final[Callable[[], Collection[torch.dtype]]] = torch.storage._new_dtypes
"""The types for which torch.save writes UntypedStorage and REBUILD_TENSOR_OF_TYPE."""
storage_names: Final[Callable[[], dict[torch.dtype, str]]] = torch.storage._dtype_to_storage_type_map
"""The name of the storage class of each other type, such as FloatStorage, which is `torch.<name>`."""


def record_offset(tensor: torch.Tensor) -> int:
    """Return where in its container the storage of a tensor lies that torch.load made under FakeTensorMode."""
    found = tensor.untyped_storage()._checkpoint_offset
    assert found is not None  # noqa: S101 - of storages that torch.load made it is known
    return found


# Process groups


def set_timeout(group: dist.ProcessGroup, timeout: timedelta) -> None:
    """Set how long a gloo group's collectives wait; the public `dist.set_timeout` came with torch 2.15."""
    backend = group._get_backend(torch.device("cpu"))
    # TORCH_DISTRIBUTED_DEBUG=DETAIL wraps it.
    getattr(backend, "wrapped_pg", backend)._set_default_timeout(timeout)


def groups() -> Iterable[dist.ProcessGroup]:
    """Return all process groups of this process."""
    return cast("Iterable[dist.ProcessGroup]", c10d._world.pg_map)


def default_store(prefix: str) -> c10d.Store:
    """Return the store by which the ranks joined, below a prefix."""
    return c10d.PrefixStore(prefix, c10d._get_default_store())


def connect_gloo(
    store: c10d.Store, name: str, ranks: Sequence[int], rank: int, timeout: timedelta
) -> dist.ProcessGroup:
    """Make a gloo group of some ranks under a name; a collective call of these ranks alone.

    `new_group` is a collective call of all ranks: it names a group by the number of groups that a process made before,
    so that a group that only some ranks made would shift the names of the next ones.

    Args:
        store: Where the ranks tell each other their addresses.
        name: The group's, equal on all its ranks and used for no other.
        ranks: Their numbers in the world, in order.
        rank: This rank's number in the group.
        timeout: How long a collective of the group waits.

    Raises:
        RuntimeError: a rank did not come within the timeout.
    """
    made, _ = c10d._new_process_group_helper(
        len(ranks), rank, list(ranks), "gloo", store, cast("Any", name), timeout=timeout
    )
    assert isinstance(made, dist.ProcessGroup)  # noqa: S101 - this rank is a member
    c10d._world.pg_group_ranks[made] = {number: place for place, number in enumerate(ranks)}
    return made


# Planning and state dicts


def forget_kept_plans() -> None:
    """Empty the caches in which SavePlanner keeps the plans of earlier saves (`enable_plan_caching`), on this rank."""
    for kept in vars(SavePlanner):
        if kept.startswith("_cached_"):
            getattr(SavePlanner, kept).clear()


def names_in_state_dict(model: torch.nn.Module, name: str) -> set[str]:
    """Return the names that torch's state dicts give to a parameter: without FSDP's and DDP's wrappers."""
    # Imported here: it imports FSDP, which an engine that only saves tensors does without.
    from torch.distributed.checkpoint.state_dict import _get_fqns  # noqa: PLC0415

    return _get_fqns(model, name)


def leave_to_ranks(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Have DDP neither send nor reduce these parameters and buffers, beside those that the model itself leaves out."""
    own = getattr(model, "_ddp_params_and_buffers_to_ignore", ())
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, [*names, *own])  # type: ignore[no-untyped-call]
