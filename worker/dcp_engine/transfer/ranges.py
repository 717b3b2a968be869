"""Which bytes of which files a load needs, and where each goes. Pure planning.

Every file is seen as windows of fixed size. A read is cut at window borders where that can be, so that each byte is
fetched once; within a window neighbours with a small gap become one request, widened to the borders of the blocks that
have digests.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from dcp_engine.format.digest import Bytes

WINDOW: Final = 8 << 20
"""Bytes of one request at most, widening aside."""
GAP: Final = 64 << 10
"""Unneeded bytes between two reads that cost less than a second request."""


@dataclass(frozen=True)
class ByteRange:
    """Bytes `start` to `stop` of a file on their way to a tensor."""

    file: str
    start: int
    stop: int
    memory: Callable[[], Bytes] | None
    """Gives the memory that the bytes go to. None: they are only to be checked."""
    done: Callable[[Bytes], None] | None = None
    """Called with that memory once all of them are here."""


@dataclass(frozen=True)
class RangeRequest:
    """One ranged read and the reads that it serves, which don't overlap, in their order."""

    file: str
    start: int
    stop: int
    reads: tuple[ByteRange, ...]

    def targets(self) -> Iterator[tuple[Bytes, ByteRange | None]]:
        """Give the memory that the request's bytes go to, in order; what no read wants goes to memory of no use."""
        at = self.start
        for read in self.reads:
            if read.start > at:
                yield np.empty(read.start - at, np.uint8), None
            yield read.memory() if read.memory else np.empty(read.stop - read.start, np.uint8), read
            at = read.stop
        if self.stop > at:
            yield np.empty(self.stop - at, np.uint8), None


@dataclass(frozen=True)
class Box:
    """A box of a stored chunk that lies in row-major order: where its first byte to its last lie, and its shape."""

    offsets: tuple[int, ...]
    """Where it begins in the chunk, by dimension, in elements."""
    sizes: tuple[int, ...]
    """Its shape, in elements."""
    chunk: tuple[int, ...]
    """The chunk's shape, in elements."""
    itemsize: int
    """Bytes of one element."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Return the chunk's strides, in elements."""
        return tuple(prod(self.chunk[dim + 1 :]) for dim in range(len(self.chunk)))

    @property
    def span(self) -> tuple[int, int]:
        """Return the box's first byte and the one after its last, in the chunk's payload."""
        if not prod(self.sizes):
            return 0, 0
        first = sum(offset * stride for offset, stride in zip(self.offsets, self.strides, strict=True))
        last = first + sum((size - 1) * stride for size, stride in zip(self.sizes, self.strides, strict=True))
        return first * self.itemsize, (last + 1) * self.itemsize

    @property
    def contiguous(self) -> bool:
        """Tell whether nothing but the box lies in its span."""
        start, stop = self.span
        return stop - start == prod(self.sizes) * self.itemsize

    def split(self, limit: int) -> "Iterator[tuple[Box, tuple[int, ...]]]":
        """Cut into boxes whose spans are at most `limit` bytes, each with its place in this box."""
        yield from self._split(limit, (0,) * len(self.sizes))

    def _split(self, limit: int, place: tuple[int, ...]) -> "Iterator[tuple[Box, tuple[int, ...]]]":
        start, stop = self.span
        dim = next((dim for dim, size in enumerate(self.sizes) if size > 1), None)
        if stop - start <= limit or dim is None:
            yield self, place
            return
        half = self.sizes[dim] // 2
        for offset, size in ((0, half), (half, self.sizes[dim] - half)):
            part = Box(
                _replaced(self.offsets, dim, self.offsets[dim] + offset),
                _replaced(self.sizes, dim, size),
                self.chunk,
                self.itemsize,
            )
            yield from part._split(limit, _replaced(place, dim, place[dim] + offset))


def _replaced(values: tuple[int, ...], dim: int, value: int) -> tuple[int, ...]:
    return (*values[:dim], value, *values[dim + 1 :])


def windows(start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Cut a range of a file at window borders."""
    while start < stop:
        end = min(stop, (start // WINDOW + 1) * WINDOW)
        yield start, end
        start = end


def cut(file: str, start: int, stop: int, target: Bytes) -> Iterator[ByteRange]:
    """Give the reads that fill `target` from a range of a file."""
    for first, last in windows(start, stop):
        part = target[first - start : last - start]
        yield ByteRange(file, first, last, lambda part=part: part)  # type: ignore[misc]


def requests(reads: Iterable[ByteRange], *, block: int, sizes: dict[str, int]) -> list[RangeRequest]:
    """Group reads into requests, file by file in the order of the bytes; `block` 0 widens nothing.

    `sizes` are the files' sizes, where known: widening stops there.
    """
    by_file: dict[str, list[ByteRange]] = defaultdict(list)
    for read in reads:
        by_file[read.file].append(read)
    found: list[RangeRequest] = []
    for file, of_file in by_file.items():
        of_file.sort(key=lambda read: (read.start, read.stop))
        for group in _groups(of_file):
            start, stop = group[0].start, max(read.stop for read in group)
            if block:
                start = start // block * block
                stop = min(-(-stop // block) * block, sizes.get(file, stop))
            found.append(RangeRequest(file, start, stop, tuple(group)))
    return found


def _groups(reads: Sequence[ByteRange]) -> Iterator[list[ByteRange]]:
    group: list[ByteRange] = []
    stop = 0
    for read in reads:
        fits = group and stop <= read.start <= stop + GAP and read.stop <= (group[0].start // WINDOW + 1) * WINDOW
        if group and not fits:
            yield group
            group, stop = [], 0
        group.append(read)
        stop = max(stop, read.stop)
    if group:
        yield group
