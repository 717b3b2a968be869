"""Do the ranks hold one value where they offer one name? A few bytes per entry tell.

Of what several ranks offer under one name, DCP saves one rank's. A fingerprint is the same for equal values: whatever
the order of a dict, the identity of its parts, the sign of a zero or the kind of a NaN. It is no proof against somebody
who makes values collide.
"""

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from copyreg import dispatch_table
from types import BuiltinFunctionType, FunctionType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
import torch.distributed as dist
from awscrt import checksums
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType
from torch.distributed.tensor import DTensor

from dcp_engine.torch_internals import ShardedTensor, group_of_shards, is_traceable_wrapper_subclass
from dcp_engine.transfer import payload, tensors
from dcp_engine.transfer.payload import Lookup

Prints = npt.NDArray[np.uint64]
"""One row per entry: what stands for its name, and what stands for its value."""
NONE: Final[Prints] = np.empty((0, 2), np.uint64)
"""What a rank sends that compares nothing."""
_ATOMS: Final = {type(None), bool, int, str, bytes}
_WITHOUT_PARTS: Final = _ATOMS | {float, complex}
_WORDS: Final = 8 << 20


def differing(ranks: Sequence[Prints]) -> dict[int, list[int]]:
    """Return, by what stands for the name, the ranks whose value is not that of the first rank that has one."""
    rows = np.concatenate([*ranks, NONE])
    owners = np.repeat(np.arange(len(ranks)), [len(each) for each in ranks])
    order = np.lexsort((owners, rows[:, 0]))
    rows, owners = rows[order], owners[order]
    _, starts, counts = np.unique(rows[:, 0], return_index=True, return_counts=True)
    unlike = np.flatnonzero(rows[:, 1] != np.repeat(rows[starts, 1], counts))
    found: dict[int, list[int]] = {}
    for row in unlike:
        found.setdefault(int(rows[row, 0]), []).append(int(owners[row]))
    return found


def of_name(index: MetadataIndex) -> int:
    """Return what stands for a name and, of a tensor, for the place of a shard."""
    return _int(f"{index.fqn}\n{tuple(index.offset or ())}".encode(errors="surrogatepass"))


def of_objects(entries: Mapping[str, object]) -> Prints:
    """Return the fingerprints of all entries that are no tensors."""
    pairs = []
    for name, value in entries.items():
        if isinstance(value, torch.Tensor):
            continue
        try:
            pairs.append((of_name(MetadataIndex(name)), of_object(value)))
        except Exception:  # noqa: BLE001, S112 - what can't be taken apart can't be pickled either, and says so there
            continue
    return _rows(pairs)


def of_replicas(items: Iterable[WriteItem], entries: Mapping[str, object], lookup: Lookup, world_size: int) -> Prints:
    """Return the fingerprints of the tensors, or shards of them, that other ranks may hold, too."""
    held = (
        (item.index, lookup.data(item))
        for item in items
        if item.type != WriteItemType.BYTE_IO and _may_be_shared(item, entries.get(item.index.fqn), world_size)
    )
    return _rows((of_name(index), of_tensor(tensor)) for index, tensor in held if isinstance(tensor, torch.Tensor))


def _may_be_shared(item: WriteItem, value: object, world_size: int) -> bool:
    if isinstance(value, DTensor):
        mesh = value.device_mesh
        replicated = any(one.is_replicate() and mesh.size(dim) > 1 for dim, one in enumerate(value.placements))
        return replicated or mesh.size() < world_size
    if isinstance(value, ShardedTensor):
        return dist.get_world_size(group_of_shards(value)) < world_size
    return item.type == WriteItemType.TENSOR


def of_tensor(tensor: torch.Tensor) -> int:
    """Return the fingerprint of a tensor's values in row-major order, where it lies: by crc32c on the CPU."""
    if is_traceable_wrapper_subclass(tensor):
        parts = [getattr(tensor, name) for name in tensor.__tensor_flatten__()[0]]
        return _int(repr([of_tensor(part) for part in parts if isinstance(part, torch.Tensor)]).encode())
    if tensors.is_wrapper(tensor):
        return 0  # only its class knows what it holds
    values = tensors.as_lies(tensor)
    if not values.is_cpu:
        return _int(repr(sums(values)).encode())
    crc = 0
    for piece in payload.tensor_pieces(values):
        crc = checksums.crc32c(piece, crc)
    return int(crc)


def sums(tensor: torch.Tensor) -> tuple[int, int]:
    """Return two sums over a tensor's bytes, the second by place; computed on its device, so that nothing is moved."""
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    if flat.storage_offset() % 8:
        flat = flat.clone()
    whole = flat.numel() // 8 * 8
    plain, placed = torch.zeros(2, dtype=torch.int64, device=flat.device)
    for start in range(0, whole // 8, _WORDS):
        words = flat[:whole].view(torch.int64)[start : start + _WORDS]
        places = torch.arange(2 * start + 1, 2 * (start + len(words)), 2, device=flat.device)
        plain, placed = plain + words.sum(), placed + (words * places).sum()
    rest = int.from_bytes(bytes(flat[whole:].tolist()), "little")
    return int(plain), int(placed) ^ rest


def of_object(value: object) -> int:
    """Return the fingerprint of any value that can be pickled.

    Raises:
        Exception: it can't be pickled, or holds itself.
    """
    token = _KNOWN.set({})
    try:
        return int.from_bytes(_digest(value), "little")
    finally:
        _KNOWN.reset(token)


_KNOWN: Final[ContextVar[dict[int, tuple[object, bytes]]]] = ContextVar("known")
"""Digests of the parts of one value by their id, with the part, so that no other gets that id meanwhile. A part that is
held twice, and holds one that is held twice, is else taken apart as often as there are ways to it."""


def _digest(value: object) -> bytes:
    kind = type(value)
    if kind in _WITHOUT_PARTS:
        return _SPECIAL[kind](value)
    known = _KNOWN.get()
    if id(value) not in known:
        known[id(value)] = value, _taken_apart(value, kind)
    return known[id(value)][1]


def _taken_apart(value: object, kind: type) -> bytes:
    if kind in _SPECIAL:
        return _SPECIAL[kind](value)
    if isinstance(value, torch.Tensor):
        return _hash(torch.Tensor, tensors.shape_and_type(value.shape, value.dtype), of_tensor(value))
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(np.asarray(value))
    if isinstance(value, type | FunctionType | BuiltinFunctionType):
        return _hash(kind, value.__module__, value.__qualname__)
    return _of_reduced(value)


def _of_array(value: npt.NDArray[Any]) -> bytes:
    data: object = _digest(value.tolist()) if value.dtype.hasobject else np.ascontiguousarray(value).tobytes()
    return _hash(np.ndarray, value.dtype.str, value.shape, data)


def _of_words(value: object) -> bytes:
    return _hash(type(value), repr(value))


def _of_number(value: float | complex) -> bytes:  # noqa: PYI041 - both
    # The zero makes one of -0.0 and 0.0; repr makes one of all NaNs.
    return _hash(type(value), repr(value + 0))


def _of_list(value: Sequence[object]) -> bytes:
    if {type(each) for each in value} <= _ATOMS:
        return _hash(type(value), repr(list(value)))
    return _hash(type(value), *map(_digest, value))


def _of_set(value: Iterable[object]) -> bytes:
    return _hash(type(value), *sorted(map(_digest, value)))


def _of_dict(value: Mapping[object, object]) -> bytes:
    return _hash(dict, *sorted(_digest(key) + _digest(each) for key, each in value.items()))


def _of_reduced(value: Any) -> bytes:  # noqa: ANN401 - of any class
    """Take an object apart as pickle does."""
    reduce = dispatch_table.get(type(value))
    parts: Any = reduce(value) if reduce else value.__reduce_ex__(4)
    if isinstance(parts, str):
        return _hash(type(value), parts)
    made, args, state, items, pairs = (*parts, None, None, None)[:5]
    where = f"{made.__module__}.{made.__qualname__}"
    return _hash(
        type(value), where, _digest(args), _digest(state), _of_list(list(items or ())), _of_dict(dict(pairs or ()))
    )


_SPECIAL: Final[dict[type, Callable[[Any], bytes]]] = {
    float: _of_number,
    complex: _of_number,
    list: _of_list,
    tuple: _of_list,
    set: _of_set,
    frozenset: _of_set,
    dict: _of_dict,
    **dict.fromkeys((*_ATOMS, torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format), _of_words),
}


def _hash(kind: type, *parts: object) -> bytes:
    made = hashlib.blake2b(f"{kind.__module__}.{kind.__qualname__}".encode(), digest_size=8)
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode(errors="surrogatepass")
        made.update(struct.pack("<Q", len(data)))
        made.update(data)
    return made.digest()


def _int(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def _rows(pairs: Iterable[tuple[int, int]]) -> Prints:
    return np.array(list(pairs), dtype=np.uint64).reshape(-1, 2)
