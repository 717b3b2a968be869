"""A data file of a checkpoint as a stream: read ahead in windows, at a bounded pace, each block compared as it passes.

Needs no torch.
"""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from functools import partial
from typing import Final

import numpy as np

from dcp_engine import failpoints
from dcp_engine.errors import CheckpointCorrupted, StorageDenied, StorageFull, StorageUnavailable
from dcp_engine.format.digest import BLOCK, Bytes, Words, as_bytes
from dcp_engine.format.manifest import DataFile, Manifest
from dcp_engine.stores.protocol import Store
from dcp_engine.stores.retry import retried
from dcp_engine.transfer import ranges
from dcp_engine.transfer.block_digests import Check
from dcp_engine.translate import translate

READING: Final = "reading"
WRITING: Final = "writing to"


@contextmanager
def naming(store: Store, doing: str) -> Iterator[None]:
    """Say in a store's refusal which of the two it was, unless that is said already."""
    try:
        yield
    except Exception as error:
        known = translate(error)
        if not isinstance(known, StorageDenied | StorageFull | StorageUnavailable):
            raise
        if not any(f" ({each} " in known.message for each in (READING, WRITING)):
            known.message += f" ({doing} {store.url})"
        if known is error:
            raise
        raise known from error


class OtherFileFailed(Exception):
    """Another file failed: there is no point in going on."""


class Pace:
    """Holds up whoever takes bytes, so that all together take no more than so many in a second."""

    def __init__(self, bytes_per_second: int | None) -> None:
        self._rate = bytes_per_second
        self._lock = threading.Lock()
        self._free = time.monotonic()

    def take(self, count: int, stopped: threading.Event) -> None:
        """Wait until some more bytes may be moved, or until all is to stop."""
        if self._rate is None:
            return
        with self._lock:
            begin = max(self._free, time.monotonic())
            self._free = begin + count / self._rate
        stopped.wait(max(0.0, begin - time.monotonic()))


class CheckedSource:
    """Reads data files of one checkpoint; any thread may call it."""

    def __init__(
        self, store: Store, manifest: Manifest, *, readers: Executor, pace: Pace, stopped: threading.Event
    ) -> None:
        self._store = store
        self._manifest = manifest
        self._readers = readers
        self._pace = pace
        self._stopped = stopped

    def pieces(self, file: DataFile, blocks: Words | None, *, ahead: int) -> Iterator[Bytes]:
        """Give the bytes of a file in their order; `ahead` windows are read while one is taken.

        Args:
            file: Which file.
            blocks: The digests of its blocks; None compares nothing.
            ahead: Windows that are held beside the one that was given last.

        Raises:
            CheckpointCorrupted: it is too short, or a block is not what was saved.
            OtherFileFailed: all is to stop.
        """
        waiting: deque[Future[Bytes]] = deque()
        try:
            for start, stop in ranges.windows(0, file.size):
                waiting.append(self._readers.submit(self._window, file, start, stop, blocks))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for each in waiting:
                each.cancel()

    def _window(self, file: DataFile, start: int, stop: int, blocks: Words | None) -> Bytes:
        self._pace.take(stop - start, self._stopped)
        with naming(self._store, READING):
            return retried(partial(self._read, file.path, start, stop, blocks), self._store.attempts)

    def _read(self, path: str, start: int, stop: int, blocks: Words | None) -> Bytes:
        if self._stopped.is_set():
            raise OtherFileFailed
        failpoints.reach("reading")
        check = Check(blocks, start) if blocks is not None else None
        target = np.empty(stop - start, np.uint8)
        bad: int | None = None
        try:
            for piece in self._store.fill(path, start, [target.data]):
                if check and (bad := check.update(as_bytes(piece))) is not None:
                    break
        except EOFError:
            raise CheckpointCorrupted(path, f"ends before byte {stop}", self._names(path, start, stop)) from None
        if check and bad is None:
            bad = check.end()
        if bad is not None:
            raise self._damaged(path, bad)
        return target

    def _damaged(self, path: str, block: int) -> CheckpointCorrupted:
        detail = f"the block at byte {block} does not have the digest it was saved with"
        return CheckpointCorrupted(path, detail, self._names(path, block, block + BLOCK))

    def _names(self, path: str, start: int, stop: int) -> Sequence[str]:
        return self._manifest.tensors_in(path, start, stop)
