"""One model, sharded over the ranks by any strategy; and a model on the meta device brought to life.

Units of sharding are the children of every `nn.ModuleList` (a transformer's blocks) and the model itself, as is usual
for FSDP. A block that shares a parameter with what is outside of it stays in the model's own unit.
"""

import functools
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel

from dcp_worker.contract import Parallelism, Strategy

Holder: TypeAlias = tuple[nn.Module, str]
"""A module and the name under which it holds a parameter: tied parameters have several."""


def shard(model: nn.Module, parallelism: Parallelism, world_size: int, device: torch.device) -> nn.Module:
    """Return the model sharded over all ranks, on its device; collective. A meta model has memory afterwards, no values.

    Args:
        model: The whole model, equal in every rank, on the CPU or on the meta device.
        parallelism: The strategy; `replicate` divides `world_size`.
        world_size: Ranks in all.
        device: This rank's device.
    """
    match parallelism.strategy:
        case Strategy.FSDP2:
            return _fully_sharded(
                model, init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",)), device
            )
        case Strategy.HSDP:
            shape = (parallelism.replicate, world_size // parallelism.replicate)
            mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replicate", "shard"))
            return _fully_sharded(model, mesh, device)
        case Strategy.FSDP1:
            return _fsdp1(model, world_size, device)
        case Strategy.DDP:
            whole = materialize(model, device).to(device)
            # A model without trainable parameters has nothing to reduce, and DDP refuses it.
            if not any(parameter.requires_grad for parameter in whole.parameters()):
                return whole
            return DistributedDataParallel(whole, device_ids=[device] if device.type == "cuda" else None)
        case Strategy.NONE:
            return materialize(model, device).to(device)


def materialize(model: nn.Module, device: torch.device) -> nn.Module:
    """Give every meta parameter and buffer memory on the device, in place; tied ones stay tied.

    `Module.to_empty` would untie them: it converts each holder on its own.
    """
    for tensor, holders in tied(model):
        if tensor.is_meta:
            _replace(tensor, holders, device)
    return model


def tied(model: nn.Module) -> Iterator[tuple[torch.Tensor, list[Holder]]]:
    """Yield every parameter and buffer once, with all modules that hold it."""
    found: dict[int, tuple[torch.Tensor, list[Holder]]] = {}
    for module in model.modules():
        own = [*module.named_parameters(recurse=False, remove_duplicate=False), *module.named_buffers(recurse=False)]
        for name, tensor in own:
            found.setdefault(id(tensor), (tensor, []))[1].append((module, name))
    yield from found.values()


def _replace(tensor: torch.Tensor, holders: list[Holder], device: torch.device) -> None:
    fresh = torch.empty_like(tensor, device=device)
    if isinstance(tensor, nn.Parameter):
        fresh = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    for module, name in holders:
        setattr(module, name, fresh)


def _units(model: nn.Module) -> list[nn.Module]:
    """Return the blocks that are sharded on their own: children of a ModuleList that share nothing with the outside."""
    blocks = [child for module in model.modules() if isinstance(module, nn.ModuleList) for child in module]
    holders = {id(tensor): held for tensor, held in tied(model)}
    own = []
    for block in reversed(blocks):  # inner units before the outer ones, as fully_shard wants it
        inside = {id(module) for module in block.modules()}
        parameters = list(block.parameters())
        if parameters and all(id(module) in inside for each in parameters for module, _ in holders[id(each)]):
            own.append(block)
    return own


def _fully_sharded(model: nn.Module, mesh: DeviceMesh, device: torch.device) -> nn.Module:
    for unit in _units(model):
        fully_shard(unit, mesh=mesh)
    fully_shard(model, mesh=mesh)
    for tensor, holders in tied(model):
        if tensor.is_meta:
            _replace(tensor, holders, device)
        elif not isinstance(tensor, nn.Parameter) and tensor.device != device:
            for module, name in holders:
                setattr(module, name, tensor.to(device))
    return model


def _fsdp1(model: nn.Module, world_size: int, device: torch.device) -> nn.Module:
    units = {id(unit) for unit in _units(model)}
    is_meta = any(tensor.is_meta for tensor, _ in tied(model))
    # On one rank FSDP1 switches to NO_SHARD by itself, with a warning.
    strategy = ShardingStrategy.FULL_SHARD if world_size > 1 else ShardingStrategy.NO_SHARD
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=UserWarning, module="torch.distributed.fsdp")
        return FullyShardedDataParallel(
            model,
            sharding_strategy=strategy,
            device_id=device,
            use_orig_params=True,
            auto_wrap_policy=functools.partial(lambda_auto_wrap_policy, lambda_fn=lambda each: id(each) in units),
            param_init_fn=_initializer(model, device) if is_meta else None,
        )


def _initializer(model: nn.Module, device: torch.device) -> Callable[[nn.Module], Any]:
    """Return what FSDP1 calls for each module whose own tensors are still on the meta device."""
    known = {id(tensor): (tensor, held) for tensor, held in tied(model)}  # the tensors too: an id lives as long as they

    def give_memory(module: nn.Module) -> None:
        own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for _, tensor in own:
            if tensor.is_meta:
                _replace(*known[id(tensor)], device)

    return give_memory
