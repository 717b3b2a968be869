"""A checkpoint's tensors, whole and in any order, as one stream of bytes in bounded memory: what an export writes.

A tensor is cut into slabs that lie in it without a gap. Some slabs at a time are read as a load reads: from whatever
chunks hold them, checked, and converted on the way. The next ones are read while these are written.
"""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Final

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlan, LoadPlanner, ReadItem

from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format.digest import Bytes
from dcp_engine.format.manifest import Manifest
from dcp_engine.transfer.file_plan import split
from dcp_engine.transfer.load_transfer import LoadTransfer
from dcp_engine.transfer.payload import tensor_pieces

_MAPPED: Final = 256 << 10
"""Bytes from which a slab has pages of its own, which go back to the system with it."""


@dataclass(frozen=True)
class Wanted:
    """A tensor of the checkpoint, and the type that it gets."""

    name: str
    dtype: torch.dtype


@dataclass(frozen=True)
class Slab:
    """A box of a tensor whose values follow one another in row-major order."""

    tensor: Wanted
    offsets: tuple[int, ...]
    sizes: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return its bytes."""
        return prod(self.sizes) * self.tensor.dtype.itemsize

    @property
    def index(self) -> MetadataIndex:
        """Return what tells it from any other."""
        return MetadataIndex(self.tensor.name, self.offsets)


def slabs(tensor: Wanted, shape: tuple[int, ...], limit: int) -> Iterator[Slab]:
    """Cut a tensor into slabs of at most `limit` bytes, or of one value, in the order of their values."""
    for offsets, sizes in _boxes(shape, max(1, limit // tensor.dtype.itemsize)):
        yield Slab(tensor, offsets, sizes)


def _boxes(shape: tuple[int, ...], values: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    if prod(shape) <= values or not shape:
        yield (0,) * len(shape), shape
        return
    row = prod(shape[1:])
    step = values // row
    if step:
        for start in range(0, shape[0], step):
            yield (start, *(0 for _ in shape[1:])), (min(step, shape[0] - start), *shape[1:])
        return
    for start in range(shape[0]):
        for offsets, sizes in _boxes(shape[1:], values):
            yield (start, *offsets), (1, *sizes)


def stream(transfer: LoadTransfer, tensors: Iterable[Wanted], batch: int) -> Iterator[Bytes]:
    """Give the values of tensors, one after the other, in pieces of a few MiB.

    Args:
        transfer: Reads the checkpoint.
        tensors: What is read, in the order in which it is given.
        batch: Bytes that are read at once. Twice as many are held, and what the taker of the pieces refers to.

    Raises:
        EngineError: As of a load; CheckpointCorrupted names the tensors and the file.
    """
    shapes = transfer.manifest.tensors
    cut = (slab for each in tensors for slab in slabs(each, tuple(shapes[each.name].shape), batch))
    batches = split(((slab, slab.size) for slab in cut if slab.size), batch)
    with ThreadPoolExecutor(1, "dcp-export") as pool:
        ahead = None
        for following in batches:
            ready, ahead = ahead, pool.submit(_read, transfer, following)
            if ready:
                yield from _pieces(ready.result())
        if ahead:
            yield from _pieces(ahead.result())


def _pieces(values: list[torch.Tensor]) -> Iterator[Bytes]:
    """Give the bytes, and let go of each slab once it is given."""
    values.reverse()
    while values:
        yield from tensor_pieces(values.pop())


def _read(transfer: LoadTransfer, batch: Sequence[Slab]) -> list[torch.Tensor]:
    values = {slab.index: _room(slab) for slab in batch}
    plan = LoadPlan([item for slab in batch for item in _reads(slab, transfer.manifest)])
    transfer.read(plan, SlabPlanner(values))
    return [values[slab.index] for slab in batch]


def _room(slab: Slab) -> torch.Tensor:
    if slab.size < _MAPPED:
        return torch.empty(slab.sizes, dtype=slab.tensor.dtype)
    return torch.frombuffer(mmap.mmap(-1, slab.size), dtype=torch.uint8).view(slab.tensor.dtype).view(slab.sizes)


def _reads(slab: Slab, manifest: Manifest) -> Iterator[ReadItem]:
    """Give what of which chunks fills a slab."""
    name, filled = slab.tensor.name, 0
    for chunk in manifest.tensors[name].chunks:
        start = tuple(map(max, slab.offsets, chunk.offsets))
        ends = zip(slab.offsets, slab.sizes, chunk.offsets, chunk.sizes, strict=True)
        stop = tuple(min(at + size, other + length) for at, size, other, length in ends)
        sizes = tuple(end - begin for begin, end in zip(start, stop, strict=True))
        if any(size <= 0 for size in sizes):
            continue
        filled += prod(sizes)
        yield ReadItem(
            LoadItemType.TENSOR,
            slab.index,
            _apart(start, slab.offsets),
            MetadataIndex(name, chunk.offsets),
            _apart(start, chunk.offsets),
            torch.Size(sizes),
        )
    if filled != prod(slab.sizes):
        raise CheckpointCorrupted(manifest.source, f"the parts of {name} do not fill it", [name])


def _apart(one: tuple[int, ...], other: tuple[int, ...]) -> torch.Size:
    return torch.Size(a - b for a, b in zip(one, other, strict=True))


class SlabPlanner(LoadPlanner):
    """Says where the values of each slab go; the plans are made here."""

    def __init__(self, values: dict[MetadataIndex, torch.Tensor]) -> None:
        self._values = values

    def resolve_tensor(self, read_item: ReadItem) -> torch.Tensor:
        """Return the part of a slab that an item fills."""
        places = zip(read_item.dest_offsets, read_item.lengths, strict=True)
        return self._values[read_item.dest_index][tuple(slice(at, at + size) for at, size in places)]

    def commit_tensor(self, read_item: ReadItem, tensor: torch.Tensor) -> None:
        """Do nothing: the values are where they should be."""

    def set_up_planner(self, *_: object, **__: object) -> None:
        """Do nothing: the plan is there already."""

    def create_local_plan(self) -> LoadPlan:
        """Never called, as the next two."""
        raise NotImplementedError

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """Never called."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """Never called."""
        return central_plan

    def load_bytes(self, read_item: ReadItem, value: object) -> None:
        """Never called: an object is no slab."""
