"""One model, sharded over the ranks by any strategy. A model on the meta device gets memory first.

Neither FSDP1 nor FSDP2 shards a parameter without dimensions, or a parameter whose type differs from the other types in
its FSDP unit. Here a layer of another type becomes an FSDP unit of its own. Parameters that still can't be sharded stay
whole in every rank, and their gradients are averaged as DDP averages them.
"""

import functools
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final, TypeAlias

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy, fully_shard
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy
from torch.nn.parallel import DistributedDataParallel

from dcp_contract.sections import Parallelism, Strategy
from dcp_engine.errors import InvalidOption
from dcp_engine.torch_internals import leave_to_ranks
from dcp_engine.transfer import tensors

_SENT: Final = {
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int8, torch.uint8, torch.bool),
}
"""Types that both gloo and NCCL send."""
Holder: TypeAlias = tuple[nn.Module, str]
"""A module and the name under which it holds a parameter: tied parameters have several."""


def shard(model: nn.Module, parallelism: Parallelism, world_size: int, device: torch.device) -> nn.Module:
    """Return the model sharded over all ranks, on its device. Collective. A meta model has memory then, but no values.

    Args:
        model: The whole model, equal in every rank, on the CPU or on the meta device.
        parallelism: The strategy; `replicate` divides `world_size`.
        world_size: Ranks in all.
        device: This rank's device.

    Raises:
        InvalidOption: the ranks can't be divided into so many replicas.
    """
    match parallelism.strategy:
        case Strategy.FSDP2:
            mesh = init_device_mesh(device.type, (world_size,), mesh_dim_names=("shard",))
            return _fully_sharded(model, mesh, device)
        case Strategy.HSDP:
            replicas = parallelism.replicate
            if world_size % replicas:
                raise InvalidOption(f"parallelism.replicate {replicas} does not divide the {world_size} ranks")
            mesh = init_device_mesh(
                device.type, (replicas, world_size // replicas), mesh_dim_names=("replicate", "shard")
            )
            return _fully_sharded(model, mesh, device)
        case Strategy.FSDP1:
            return _fsdp1(model, world_size, device)
        case Strategy.DDP:
            whole = materialize(model, device).to(device)
            # A model without trainable parameters has nothing to reduce, and DDP refuses it.
            if not any(parameter.requires_grad for parameter in whole.parameters()):
                return whole
            # DDP sends buffers from rank 0 to all, and no backend sends every type, nor what is sparse. Those left are
            # equal by their seed.
            unsent = [name for name, each in whole.named_buffers() if each.dtype not in _SENT or tensors.fault(each)]
            leave_to_ranks(whole, unsent)
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
        parameters = module.named_parameters(recurse=False, remove_duplicate=False)
        buffers = module.named_buffers(recurse=False, remove_duplicate=False)
        for name, tensor in [*parameters, *buffers]:
            found.setdefault(id(tensor), (tensor, []))[1].append((module, name))
    yield from found.values()


def has_meta(model: nn.Module) -> bool:
    """Tell whether any parameter or buffer has a shape and no memory."""
    return any(tensor.is_meta for tensor, _ in tied(model))


def units(model: nn.Module) -> tuple[list[nn.Module], set[nn.Parameter]]:
    """Return the modules to shard on their own, inner ones before outer ones, the model last; and what stays whole.

    They are the children of every `nn.ModuleList` (a transformer's blocks) and layers of another type than the rest of
    their block. A module that shares a parameter with what is outside of it is none, nor is one that has several names:
    FSDP1 would wrap it under one of them alone.
    """
    names = Counter(module for _, module in model.named_modules(remove_duplicate=False))
    holders = {tensor: [module for module, _ in held] for tensor, held in tied(model)}
    children = [child for module in model.modules() if isinstance(module, nn.ModuleList) for child in module]
    blocks = [child for child in dict.fromkeys(children) if names[child] == 1 and _stands_alone(child, holders)]
    found: list[nn.Module] = []
    loose: set[nn.Parameter] = set()
    taken: set[nn.Parameter] = set()
    for block in [*reversed(blocks), model]:  # a module comes before those in it
        own = [each for each in block.parameters() if each not in taken]
        odd = _odd(own)
        layers = dict.fromkeys(holders[each][0] for each in own if each in odd and each.dim())
        apart = [each for each in layers if each is not block and names[each] == 1 and _is_layer(each, odd, holders)]
        taken.update(own)
        loose |= odd - {parameter for layer in apart for parameter in layer.parameters() if parameter.dim()}
        found += [*apart, block]
    return found, loose


def _stands_alone(module: nn.Module, holders: dict[torch.Tensor, list[nn.Module]]) -> bool:
    """Return whether all that hold the module's parameters are inside of it, and it has some and can be called."""
    inside = set(module.modules())
    parameters = list(module.parameters())
    callable_ = not isinstance(module, nn.ModuleList | nn.ModuleDict)
    return callable_ and bool(parameters) and all(inside.issuperset(holders[each]) for each in parameters)


def _odd(parameters: list[nn.Parameter]) -> set[nn.Parameter]:
    """Return the parameters that can't be in one unit with most of the others."""
    sizes: Counter[torch.dtype] = Counter()
    for each in parameters:
        if each.dim():
            sizes[each.dtype] += each.numel()
    usual = sizes.most_common(1)[0][0] if sizes else None
    return {each for each in parameters if not each.dim() or each.dtype != usual}


def _is_layer(module: nn.Module, odd: set[nn.Parameter], holders: dict[torch.Tensor, list[nn.Module]]) -> bool:
    """Return whether a module with odd parameters can be a unit: all of them of one type, and its own."""
    sized = [each for each in module.parameters() if each.dim()]
    return odd.issuperset(sized) and len({each.dtype for each in sized}) == 1 and _stands_alone(module, holders)


def _replace(tensor: torch.Tensor, holders: list[Holder], device: torch.device) -> torch.Tensor:
    fresh = torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.detach().to(device)
    if isinstance(tensor, nn.Parameter):
        fresh = nn.Parameter(fresh, requires_grad=tensor.requires_grad)
    fresh.__dict__.update(tensor.__dict__)  # what a model notes on a parameter, such as that it does not decay
    for module, name in holders:
        setattr(module, name, fresh)
    return fresh


def _placed(model: nn.Module, loose: set[nn.Parameter], device: torch.device) -> set[nn.Parameter]:
    """Put buffers and the loose parameters on the device; return the latter, which average their gradients."""
    placed: set[nn.Parameter] = set()
    for tensor, holders in tied(model):
        stays = isinstance(tensor, nn.Parameter)
        if stays and tensor not in loose:
            continue
        fresh = _replace(tensor, holders, device) if tensor.device != device else tensor
        if isinstance(fresh, nn.Parameter):
            placed.add(fresh)
            if fresh.requires_grad:
                fresh.register_post_accumulate_grad_hook(_average)  # type: ignore[no-untyped-call]
    return placed


def _average(parameter: torch.Tensor) -> None:
    if parameter.grad is not None:
        dist.all_reduce(parameter.grad)
        parameter.grad /= dist.get_world_size()


def _fully_sharded(model: nn.Module, mesh: DeviceMesh, device: torch.device) -> nn.Module:
    modules, loose = units(model)
    whole = _placed(model, loose, device)
    for unit in modules:
        fully_shard(unit, mesh=mesh, ignored_params=whole)
    return materialize(model, device)


def _fsdp1(model: nn.Module, world_size: int, device: torch.device) -> nn.Module:
    modules, loose = units(model)
    whole = _placed(model, loose, device)
    own = {id(unit) for unit in modules}
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
            auto_wrap_policy=functools.partial(lambda_auto_wrap_policy, lambda_fn=lambda each: id(each) in own),
            param_init_fn=_initializer(model, device) if has_meta(model) else None,
            ignored_states=whole,
        )


def _initializer(model: nn.Module, device: torch.device) -> Callable[[nn.Module], Any]:
    """Return what FSDP1 calls for each module whose own tensors are still on the meta device."""
    known = {id(tensor): (tensor, held) for tensor, held in tied(model)}  # the tensors too: an id lives as long as they

    def give_memory(module: nn.Module) -> None:
        for tensor in list(module.parameters(recurse=False)):
            if tensor.is_meta:
                _replace(*known[id(tensor)], device)

    return give_memory
