"""Kinds of tensors: which have values of their own, where those lie, and which can't be saved.

A tensor may be a subclass that wraps others, has no memory, reads its memory in its own way, or answers for itself what
it is asked. Whatever copies one by what it says of itself copies garbage from some of them, without an error. So the
engine looks below: values of its own are the bytes of a strided tensor in memory; a wrapper is what it wraps.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Final

import torch
from torch.distributed.tensor import DTensor
from torch.nn.parameter import is_lazy

from dcp_engine import torch_internals
from dcp_engine.errors import StateMismatch
from dcp_engine.torch_internals import (
    AsyncCollectiveTensor,
    FakeTensor,
    FunctionalTensor,
    ShardedTensor,
    compute_local_shape_and_global_offset,
    is_traceable_wrapper_subclass,
)

PLAIN: Final[tuple[type, ...]] = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)
Copy = Callable[[torch.Tensor], torch.Tensor]


def is_wrapper(tensor: torch.Tensor) -> bool:
    """Tell whether the values are not in the tensor's own memory, or not as they lie there."""
    kind = type(tensor)
    if kind in PLAIN or kind is AsyncCollectiveTensor:
        return False
    return is_traceable_wrapper_subclass(tensor) or kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor over the same memory that has no class of its own; a wrapper as it is.

    What a collective has yet to fill is waited for.
    """
    if isinstance(tensor, AsyncCollectiveTensor):
        return plain(tensor.wait())
    if type(tensor) is torch.Tensor or is_wrapper(tensor):
        return tensor.detach()
    with torch_internals.without_torch_function():  # the class may answer as it likes
        return tensor.detach().as_subclass(torch.Tensor)


def as_lies(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor whose values lie in its memory as they are: a copy of one that conjugates or negates."""
    return resolved(plain(tensor))


def resolved(tensor: torch.Tensor) -> torch.Tensor:
    """Return a plain tensor as it is, or a copy of one that conjugates or negates."""
    return tensor.resolve_conj().resolve_neg()


def on_host(tensor: torch.Tensor, copy: Copy | None = None) -> torch.Tensor:
    """Copy a wrapper to host memory, by a copy of each tensor that it wraps; any other tensor by `copy`.

    Raises:
        TypeError: the class can't be taken apart, and its own copy is of another class.
    """
    if not is_wrapper(tensor):
        return copy(tensor) if copy else plain(tensor).to("cpu", copy=True)
    kind = type(tensor)
    if not is_traceable_wrapper_subclass(tensor):
        made = tensor.detach().cpu().clone()
        if type(made) is not kind:
            raise TypeError(f"a copy of a {kind.__qualname__} is a {type(made).__qualname__}")
        return made
    names, context = tensor.__tensor_flatten__()
    parts = {name: getattr(tensor, name) for name in names}
    parts = {name: on_host(part, copy) if isinstance(part, torch.Tensor) else part for name, part in parts.items()}
    made = kind.__tensor_unflatten__(parts, context, tensor.size(), tensor.stride())
    if type(made) is not kind:
        raise TypeError(f"a {kind.__qualname__} that is put together again is a {type(made).__qualname__}")
    return made


def fill(name: str, target: torch.Tensor, source: torch.Tensor) -> bool:
    """Copy a wrapper into one of the same class, part by part, and tell whether that could be done.

    What both wrap must be alike: the class's own `copy_` may take one for the other, or copy into a copy.

    Raises:
        StateMismatch: the wrappers have other settings.
    """
    if type(target) is not type(source) or not is_traceable_wrapper_subclass(target):
        return False
    names, context = target.__tensor_flatten__()
    other_names, other_context = source.__tensor_flatten__()
    if list(names) != list(other_names) or not _equal(context, other_context):
        raise StateMismatch.of_settings(name, type(target).__qualname__, other_context, context)
    for part in names:
        into, values = getattr(target, part), getattr(source, part)
        if into.shape != values.shape or into.dtype != values.dtype:
            raise StateMismatch.of_settings(
                f"{name}.{part}",
                type(target).__qualname__,
                shape_and_type(values.shape, values.dtype),
                shape_and_type(into.shape, into.dtype),
            )
        if not fill(f"{name}.{part}", into, values):
            plain(into).copy_(plain(values))
    return True


def _equal(one: Any, other: Any) -> bool:  # noqa: ANN401 - whatever a class notes of itself
    return bool(one == other)


def shape_and_type(shape: torch.Size, dtype: torch.dtype) -> str:
    """Return a type and a shape as they stand in messages: `float32 (2, 3)`."""
    return f"{str(dtype).removeprefix('torch.')} {tuple(shape)}"


def faults(entries: Mapping[str, object]) -> dict[str, str]:
    """Return the tensors, by name, that can't be saved or loaded, each with the reason."""
    found = {name: fault(value) for name, value in entries.items() if isinstance(value, torch.Tensor)}
    return {name: why for name, why in found.items() if why}


def fault(tensor: torch.Tensor) -> str | None:
    """Return why what would be saved of a tensor is not what it is, or None."""
    with torch_internals.without_torch_function():
        return next(_faults(tensor), None)


_TRACED: Final = FakeTensor, FunctionalTensor


def _stands_for_nothing(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, _TRACED) or torch_internals.is_functional(tensor)


_UNFIT: Final[tuple[tuple[Callable[[torch.Tensor], bool], str], ...]] = (
    (
        is_lazy,
        "is a {kind} of a lazy module: run the module once, so that it gets its shape",
    ),
    (_stands_for_nothing, "is a {kind} of a trace, which stands for values that are nowhere"),
    (
        torch_internals.is_in_transform,
        "is a {kind} inside a function transform such as vmap: save what the transform returns",
    ),
    (lambda tensor: tensor.is_nested, "is a nested {kind}: save its values() and offsets()"),
    (
        lambda tensor: tensor.layout != torch.strided,
        "is a {kind} of layout {layout}: save its indices and values, or its to_dense()",
    ),
    (lambda tensor: tensor.is_quantized, "is a quantized {kind}: save its int_repr(), its scale and its zero point"),
    (lambda tensor: tensor.is_meta, "is a {kind} on the meta device, where it has no values"),
)
"""Kinds that have no values, or values that a load would not put back."""


def _faults(tensor: torch.Tensor) -> Iterator[str]:
    kind = type(tensor).__name__
    for applies, why in _UNFIT:
        if applies(tensor):
            yield why.format(kind=kind, layout=str(tensor.layout).removeprefix("torch."))
            return
    if isinstance(tensor, DTensor):
        yield from _faults_of_dtensor(tensor)
    elif isinstance(tensor, ShardedTensor):
        yield from _faults_of_shards(tensor)
    elif not is_wrapper(tensor):
        yield from _faults_of_memory(plain(tensor), kind)
    elif is_traceable_wrapper_subclass(tensor):
        for name in tensor.__tensor_flatten__()[0]:
            part = getattr(tensor, name)
            if isinstance(part, torch.Tensor):
                yield from (f"is a {kind} whose {name} {why}" for why in _faults(part))


def _faults_of_memory(tensor: torch.Tensor, kind: str) -> Iterator[str]:
    if tensor.dtype not in _known_types():
        name = str(tensor.dtype).removeprefix("torch.")
        yield f"is of type {name}, which the format can't hold: save its view(torch.uint8)"
        return
    count = tensor.numel()
    if count and not tensor.is_contiguous():
        count = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    need = (tensor.storage_offset() + count) * tensor.itemsize if count else 0
    storage = tensor.untyped_storage()
    if storage.nbytes() < need or (need and not storage.data_ptr()):
        yield f"is a {kind} without memory: it was freed, or the class keeps its values elsewhere"


@cache
def _known_types() -> frozenset[torch.dtype]:
    return frozenset({*torch_internals.types_without_storage(), *torch_internals.storage_names()})


def _faults_of_dtensor(tensor: DTensor) -> Iterator[str]:
    if tensor.device_mesh.get_coordinate() is None:
        return
    if any(placement.is_partial() for placement in tensor.placements):
        yield "is a DTensor of partial sums: redistribute() it first"
        return
    planned, _ = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
    local = torch_internals.local_tensor(tensor)
    if tuple(local.shape) != tuple(planned):
        yield (
            f"is a DTensor whose local tensor is {tuple(local.shape)}, where {tuple(tensor.shape)} under "
            f"{tensor.placements} has {tuple(planned)} on this rank: cut it as distribute_tensor does"
        )
        return
    yield from (f"is a DTensor whose local tensor {why}" for why in _faults(local))


def _faults_of_shards(tensor: ShardedTensor) -> Iterator[str]:
    for shard in tensor.local_shards():
        planned = tuple(shard.metadata.shard_sizes)
        if tuple(shard.tensor.shape) != planned:
            yield f"is a ShardedTensor whose shard is {tuple(shard.tensor.shape)}, where its metadata say {planned}"
        elif is_wrapper(shard.tensor):
            yield f"is a ShardedTensor of {type(shard.tensor).__name__}, which can't be staged: use DTensor"
        else:
            yield from (f"is a ShardedTensor whose shard {why}" for why in _faults(shard.tensor))
