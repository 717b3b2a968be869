"""Into which files a rank writes its items, and with how much memory. Pure planning."""

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from dcp_engine.format import layout
from dcp_engine.stores.protocol import PART_SIZE, Store

ONE_REQUEST: Final = 80 << 20
"""A file up to this size goes in one request if that takes no memory: what breaks off is sent again as a whole."""
_PARALLEL: Final = 12
_MAX_PARTS: Final = 9_000
_LEAST_FILE: Final = 8 << 20
"""Bytes for which another file is worth its request."""
_MANY_FILES: Final = 64
"""More files of a rank than this take too long to list and to delete."""
_LEAST_SHARE: Final = 3 * PART_SIZE
"""Memory that a file in parts takes at least: a part that travels, one that fills, and the next pieces."""
_Item = TypeVar("_Item")


@dataclass(frozen=True)
class PlannedFile:
    """One data file of a rank."""

    path: str
    """Below the checkpoint's URL."""
    items: Sequence[WriteItem]
    """What it holds, in the order of the bytes."""
    size: int
    """About how many bytes that is: objects count as nothing, since nobody has pickled them yet."""
    memory: int
    """Bytes that may be held for what of it is in flight."""

    def parts(self) -> tuple[int, int]:
        """Return the bytes of a part and how many parts may be in flight, within the memory and S3's 10,000 parts.

        Beyond those one part fills, and pieces for the next are being copied.
        """
        part_size = max(PART_SIZE, -(-self.size // _MAX_PARTS))
        return part_size, max(1, min(_PARALLEL, self.memory // part_size - 2))


@dataclass(frozen=True)
class FilePlan:
    """All data files of a rank."""

    files: Sequence[PlannedFile]
    at_once: int
    """Files that are written at the same time."""
    size: int
    """About how many bytes this rank writes."""

    @property
    def paths(self) -> list[str]:
        """Where the files are."""
        return [file.path for file in self.files]


def planned(items: Sequence[WriteItem], store: Store, *, save_id: str, rank: int, memory_limit: int) -> FilePlan:
    """Decide which items go into one file together: objects first, tensors in the planner's order."""
    sizes = [(item, size_of(item)) for item in items]
    sizes.sort(key=lambda entry: entry[0].type != WriteItemType.BYTE_IO)
    count = file_count([size for _, size in sizes], at_once=store.writers, best=store.file_size)
    groups = [group for stream in spread(sizes, count) for group in split((entry, entry[1]) for entry in stream)]
    at_once = max(1, min(store.writers, len(groups), memory_limit // _LEAST_SHARE))
    files = [
        PlannedFile(
            layout.data_path(save_id, rank, number),
            [item for item, _ in group],
            sum(size for _, size in group),
            memory_limit // at_once,
        )
        for number, group in enumerate(groups)
    ]
    return FilePlan(files, at_once, sum(size for _, size in sizes))


def size_of(item: WriteItem) -> int:
    """Return about how many bytes the item will take; objects count as nothing."""
    data = item.tensor_data
    if data is None or data.chunk is None:
        return 0
    return data.chunk.sizes.numel() * data.properties.dtype.itemsize


def file_count(sizes: Sequence[int], *, at_once: int, best: int) -> int:
    """Return how many files the items of one rank go to, given the items' sizes in bytes.

    The store takes `at_once` files at a time, and files of `best` bytes are the fastest. The count is a multiple of
    `at_once`, so that no upload idles in the last round. Every file has 8 MiB or more, unless it is the only one.
    """
    rounds = max(1, round(sum(sizes) / best) // at_once)
    count = at_once * rounds if at_once * rounds <= _MANY_FILES else at_once
    large = sum(size >= _LEAST_FILE for size in sizes)
    small = sum(size for size in sizes if size < _LEAST_FILE)
    return max(1, min(count, large + small // _LEAST_FILE))


def spread(items: Iterable[tuple[_Item, int]], bins: int) -> list[list[tuple[_Item, int]]]:
    """Spread (item, bytes) evenly over at most `bins` streams, the largest first, each in the order of the items."""
    groups: list[list[tuple[int, _Item, int]]] = [[] for _ in range(bins)]
    heap = [(0, number) for number in range(bins)]
    for place, (item, length) in sorted(enumerate(items), key=lambda entry: -entry[1][1]):
        size, number = heap[0]
        groups[number].append((place, item, length))
        heapq.heapreplace(heap, (size + length, number))
    ordered = [sorted(group, key=lambda entry: entry[0]) for group in groups if group]
    return [[(item, length) for _, item, length in group] for group in ordered]


def split(items: Iterable[tuple[_Item, int]], limit: int = layout.FILE_LIMIT) -> Iterator[list[_Item]]:
    """Group a rank's (item, bytes) into files of at most `limit` bytes, or of one item that is larger."""
    group: list[_Item] = []
    size = 0
    for item, length in items:
        if group and size + length > limit:
            yield group
            group, size = [], 0
        group.append(item)
        size += length
    if group:
        yield group
