"""Into which files a rank writes its items, and with how much memory. Pure planning."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from dcp_engine.format import layout
from dcp_engine.stores.protocol import PART_SIZE, Store
from dcp_engine.transfer import payload

ONE_REQUEST: Final = 80 << 20
"""A file up to this size goes in one request if that takes no memory: what breaks off is sent again as a whole."""
_PARALLEL: Final = 12
_MAX_PARTS: Final = 9_000
_LEAST_SHARE: Final = 3 * PART_SIZE
"""Memory that a file in parts takes at least: a part that travels, one that fills, and the next pieces."""


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

    @property
    def size(self) -> int:
        """About how many bytes this rank writes."""
        return sum(file.size for file in self.files)

    @property
    def paths(self) -> list[str]:
        """Where the files are."""
        return [file.path for file in self.files]


def planned(items: Sequence[WriteItem], store: Store, *, save_id: str, rank: int, memory_limit: int) -> FilePlan:
    """Decide which items go into one file together: objects first, tensors in the planner's order."""
    sizes = [(item, payload.size_of(item)) for item in items]
    sizes.sort(key=lambda entry: entry[0].type != WriteItemType.BYTE_IO)
    count = layout.file_count([size for _, size in sizes], at_once=store.writers, best=store.file_size)
    groups = [
        group for spread in layout.spread(sizes, count) for group in layout.split((entry, entry[1]) for entry in spread)
    ]
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
    return FilePlan(files, at_once)
