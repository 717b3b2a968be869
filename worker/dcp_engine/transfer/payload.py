"""The bytes of one item on their way to a file: looked up, then straight from the tensor's memory, or copied piecewise.

No copy of a whole shard is ever made. A contiguous CPU tensor is sliced in place. Anything else (another device,
another layout) passes through pieces of bounded size; from a CUDA device the next piece is copied while this one is
digested and sent. An upload refers to a piece's memory until its part is through, so no piece's memory is ever used
again while anybody refers to it.
"""

import io
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from weakref import WeakValueDictionary

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlanner, WriteItem, WriteItemType

from dcp_engine.errors import UnsavableState
from dcp_engine.format import torch_zip_write
from dcp_engine.format.digest import Bytes, as_bytes
from dcp_engine.transfer import tensors

PIECE: Final = 4 << 20
"""Bytes handed on at once."""
_MAPPED: Final = 256 << 10
"""Bytes from which a copy has pages of its own. The kernel allows a process some 65,000 mappings."""


@dataclass(frozen=True)
class Payload:
    """One item, ready to stream."""

    size: int
    offset: int | None
    """Where a reader finds the values in row-major order; None if only `torch.load` can decode the item."""
    source: io.BytesIO | torch.Tensor
    frame: torch_zip_write.Frame

    @property
    def in_place(self) -> bool:
        """Whether the values are sent from where they lie, without any memory of their own."""
        return isinstance(self.source, torch.Tensor) and self.source.is_cpu and self.source.is_contiguous()

    def pieces(self) -> Iterator[Bytes]:
        """Give the item's bytes in order."""
        if isinstance(self.source, io.BytesIO):
            yield from _slices(as_bytes(self.source.getbuffer()))
            return
        yield as_bytes(self.frame.head)
        yield from tensor_pieces(self.source)
        yield as_bytes(self.frame.tail)


class Lookup:
    """Looks up what the planner of one save has for the items of a plan, for all who ask; from any thread.

    A tensor that the state holds anyway is not looked up again. One that a planner makes for the call is let go and
    made again: together they may be as large as the state.
    """

    def __init__(self, planner: SavePlanner) -> None:
        self.planner = planner
        self._held = WeakValueDictionary[MetadataIndex, torch.Tensor]()
        self._pickled: dict[MetadataIndex, Payload] = {}

    def data(self, item: WriteItem) -> torch.Tensor | io.BytesIO:
        """Return what is to be written of an item: a tensor, or the bytes of an object."""
        held = self._held.get(item.index)
        if held is not None:
            return held
        with torch.no_grad():  # of a DTensor, else, a new view each time
            found = self.planner.resolve_data(item)
        if isinstance(found, torch.Tensor):
            self._held[item.index] = found
        return found

    def pickled(self, item: WriteItem) -> Payload:
        """Return the payload of an object, and keep it until it is written: nothing is pickled twice."""
        made = self._pickled[item.index] = _prepared(item, self.data(item))
        return made

    def payload(self, item: WriteItem) -> Payload:
        """Return what is written of an item, ready to stream, and let it go."""
        return self._pickled.pop(item.index, None) or _prepared(item, self.data(item))


def _prepared(item: WriteItem, data: torch.Tensor | io.BytesIO) -> Payload:
    """Decide how an item's bytes are made."""
    if isinstance(data, io.BytesIO):
        return Payload(len(data.getbuffer()), None, data, torch_zip_write.Frame(b"", b""))
    _refuse(item, data)
    tensor = tensors.plain(data)
    if item.type == WriteItemType.BYTE_IO or tensors.is_wrapper(tensor):
        buffer = io.BytesIO()
        torch.save(tensors.on_host(tensor), buffer)
        return Payload(len(buffer.getbuffer()), None, buffer, torch_zip_write.Frame(b"", b""))
    tensor = tensors.resolved(tensor)
    frame = torch_zip_write.frame(tensor.dtype, tensor.shape)
    size = len(frame.head) + tensor.numel() * tensor.itemsize + len(frame.tail)
    return Payload(size, len(frame.head), tensor, frame)


def _refuse(item: WriteItem, tensor: torch.Tensor) -> None:
    """Refuse a tensor that is not what was planned: readers find the next values where the plan says they are.

    Raises:
        UnsavableState: it is of another shape or type, or has no values.
    """
    why = tensors.fault(tensor)
    plan = item.tensor_data
    if not why and plan is not None and plan.chunk is not None:
        planned = torch.Size(plan.chunk.sizes), plan.properties.dtype
        actual = tensor.shape, tensor.dtype
        if actual != planned:
            here, there = tensors.shape_and_type(*actual), tensors.shape_and_type(*planned)
            why = f"is {here} on this rank, where its plan says {there}"
    if why:
        raise UnsavableState.of({item.index.fqn: why})


def tensor_pieces(tensor: torch.Tensor) -> Iterator[Bytes]:
    """Give the bytes of a plain tensor in row-major order."""
    if not tensor.numel():
        return
    if tensor.is_cpu and tensor.is_contiguous():
        yield from _slices(raw(tensor))
    elif tensor.is_cuda:
        yield from _cuda_pieces(tensor)
    else:
        for part in rows(tensor, PIECE):
            yield from _slices(_copied(part))


def raw(tensor: torch.Tensor) -> Bytes:
    """Return the bytes of a contiguous CPU tensor, without a copy."""
    # A dimension of size 1 may have any stride, which a view of all its bytes may not.
    return tensor.as_strided((tensor.numel(),), (1,)).view(torch.uint8).numpy()


def _copied(part: torch.Tensor) -> Bytes:
    """Return the bytes of a copy; a large one in pages that go back to the system as soon as nobody refers to them.

    malloc keeps what is freed, by thread and in holes: at its worst a quarter of what may be in flight.
    """
    if part.nbytes < _MAPPED:
        return raw(torch.empty(part.shape, dtype=part.dtype, device="cpu").copy_(part))
    flat = torch.frombuffer(mmap.mmap(-1, part.nbytes), dtype=torch.uint8)
    flat.view(part.dtype).view(part.shape).copy_(part)
    return flat.numpy()


def rows(tensor: torch.Tensor, limit: int) -> Iterator[torch.Tensor]:
    """Cut a tensor, in row-major order, into views of at most `limit` bytes (or one element)."""
    if tensor.nbytes <= limit or not tensor.dim():
        yield tensor
        return
    step = max(1, limit * tensor.shape[0] // tensor.nbytes)
    for start in range(0, tensor.shape[0], step):
        part = tensor[start : start + step]
        if part.nbytes > limit and part.shape[0] == 1 and part.dim() > 1:
            yield from rows(part[0], limit)
        else:
            yield part


def _slices(data: Bytes) -> Iterator[Bytes]:
    for start in range(0, len(data), PIECE):
        yield data[start : start + PIECE]


def _cuda_pieces(tensor: torch.Tensor) -> Iterator[Bytes]:
    """Copy ahead by one piece on a stream of its own; torch keeps pinned memory for the next piece once it is free."""
    stream = torch.cuda.Stream(tensor.device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(tensor.device))
    ahead: tuple[torch.Tensor, torch.cuda.Event] | None = None
    for part in rows(tensor, PIECE):
        with torch.cuda.stream(stream):
            copy = torch.empty(part.shape, dtype=part.dtype, pin_memory=True)
            copy.copy_(part, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record(stream)
        if ahead:
            ahead[1].synchronize()
            yield raw(ahead[0])
        ahead = copy, done
    if ahead:
        ahead[1].synchronize()
        yield raw(ahead[0])
