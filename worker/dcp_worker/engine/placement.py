"""How the bytes of a stored chunk get into a destination tensor with one copy, whatever the layouts."""

from collections.abc import Iterator

import numpy as np
import torch
from torch.distributed.checkpoint.planner import ReadItem

from dcp_worker.engine.digest import Bytes
from dcp_worker.engine.errors import StateMismatch
from dcp_worker.engine.payload import raw
from dcp_worker.engine.ranges import WINDOW, Box, Read, cut


def reads(
    item: ReadItem, file: str, payload: int, box: Box, dtype: torch.dtype, target: torch.Tensor
) -> Iterator[Read]:
    """Give the reads that fill `target` from a box of the chunk whose payload begins at byte `payload` of the file."""
    if tuple(target.size()) != box.sizes:
        raise StateMismatch(
            f"{item.dest_index.fqn}: the checkpoint holds {box.sizes} where the state dict wants {tuple(target.size())}"
        )
    if not target.numel():
        return
    if box.contiguous and target.is_contiguous() and target.dtype == dtype:
        start, stop = box.span
        if target.is_cpu:
            yield from cut(file, payload + start, payload + stop, raw(target), np.copyto)
        else:
            yield from _to_device(file, payload + start, payload + stop, target)
        return
    for part, place in box.split(WINDOW):
        view = target[tuple(slice(at, at + size) for at, size in zip(place, part.sizes, strict=True))]
        start, stop = part.span
        yield Read(file, payload + start, payload + stop, _Strided(part, dtype, view))


class _Strided:
    """Copies a box out of its span, into any layout, device or dtype."""

    def __init__(self, box: Box, dtype: torch.dtype, view: torch.Tensor) -> None:
        self._box = box
        self._dtype = dtype
        self._view = view

    def __call__(self, data: Bytes) -> None:
        # A span may begin at any byte, a typed view may not; the copy is of one window at most.
        values = torch.from_numpy(data.copy()).view(self._dtype)
        self._view.copy_(values.as_strided(self._box.sizes, self._box.strides))


def _to_device(file: str, start: int, stop: int, target: torch.Tensor) -> Iterator[Read]:
    flat = target.view(-1).view(torch.uint8)
    at = start
    while at < stop:
        end = min(stop, (at // WINDOW + 1) * WINDOW)
        part = flat[at - start : end - start]
        yield Read(file, at, end, lambda data, part=part: part.copy_(torch.from_numpy(data.copy())))  # type: ignore[misc]
        at = end
