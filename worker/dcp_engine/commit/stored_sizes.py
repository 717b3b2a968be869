"""Sizes that a stranger declares are no larger than what is really stored: a file with a hole has any size.

Every read that takes memory for a size from a checkpoint, and has no other bound, asks here first.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.stores.protocol import Store

_FREE: Final = 64 << 20
_TIMES: Final = 4
"""Bytes that may be read for each that is stored, beyond those that are free. A file system that packs what it stores
makes holes of zeros, as a fresh optimizer has them."""


def need(store: Store, spans: Mapping[str, Sequence[tuple[int, int]]]) -> None:
    """Refuse ranges of files, by path, most of which were never written.

    Raises:
        CheckpointCorrupted: names the file.
    """
    for path, ranges in spans.items():
        declared = sum(stop - start for start, stop in ranges)
        if declared > _FREE and store.stored(path, ranges) * _TIMES + _FREE < declared:
            raise CheckpointCorrupted(path, f"has a hole, which nobody writes, in the {declared} bytes that are wanted")
