"""How the bytes of a stored chunk get into a destination tensor with one copy, whatever the layouts."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch.distributed.checkpoint.planner import ReadItem

from dcp_engine.errors import StateMismatch
from dcp_engine.format.digest import Bytes
from dcp_engine.transfer import conversion, tensors
from dcp_engine.transfer.payload import raw
from dcp_engine.transfer.ranges import WINDOW, Box, ByteRange, cut, windows


def reads(
    item: ReadItem, file: str, payload: int, box: Box, dtype: torch.dtype, target: torch.Tensor
) -> Iterator[ByteRange]:
    """Give the reads that fill `target` from a box of the chunk whose payload begins at byte `payload` of the file."""
    if tuple(target.size()) != box.sizes:
        raise StateMismatch.of_shape(item.dest_index.fqn, box.sizes, tuple(target.size()))
    if not target.numel():
        return
    target = tensors.plain(target)
    name = item.dest_index.fqn
    if tensors.is_wrapper(target):
        # A view of it may be a copy.
        start, stop = box.span
        memory = partial(_scratch, stop - start)
        yield ByteRange(file, payload + start, payload + stop, memory, partial(_place, name, box, dtype, target))
        return
    lies = not (target.is_conj() or target.is_neg())
    if box.contiguous and target.is_contiguous() and target.dtype == dtype and lies:
        start, stop = box.span
        if target.is_cpu:
            yield from cut(file, payload + start, payload + stop, raw(target))
        else:
            yield from _to_device(file, payload + start, payload + stop, target)
        return
    for part, place in box.split(WINDOW):
        view = target[tuple(slice(at, at + size) for at, size in zip(place, part.sizes, strict=True))]
        start, stop = part.span
        memory = partial(_scratch, stop - start)
        yield ByteRange(file, payload + start, payload + stop, memory, partial(_place, name, part, dtype, view))


def _place(name: str, box: Box, dtype: torch.dtype, view: torch.Tensor, data: Bytes) -> None:
    """Copy a box out of its span, into any layout, device or dtype."""
    values = torch.from_numpy(data).view(dtype)
    conversion.copy(name, values.as_strided(box.sizes, box.strides), view)


def _to_device(file: str, start: int, stop: int, target: torch.Tensor) -> Iterator[ByteRange]:
    """Give the reads that fill a contiguous tensor of another device, window by window through host memory."""
    flat = target.view(-1).view(torch.uint8)
    for first, last in windows(start, stop):
        part = flat[first - start : last - start]
        memory = partial(_scratch, last - first)
        yield ByteRange(file, first, last, memory, partial(_move, part))


def _move(part: torch.Tensor, data: Bytes) -> None:
    with torch.inference_mode(part.is_inference()):
        part.copy_(torch.from_numpy(data))


def _scratch(size: int) -> Bytes:
    return np.empty(size, dtype=np.uint8)
