"""Carries out requests in parallel: fetch, check the digests, hand the bytes to their tensors.

Memory is bounded by threads x window. Nothing reaches a tensor before the digest of its block matched.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Final

import numpy as np

from dcp_worker.engine import digest, failpoints
from dcp_worker.engine.digest import BLOCK, Bytes, as_bytes
from dcp_worker.engine.errors import CheckpointCorrupted
from dcp_worker.engine.manifest import Manifest
from dcp_worker.engine.ranges import WINDOW, Request
from dcp_worker.engine.store import Store

_WHOLE_SIDECAR: Final = 4 << 20
"""A sidecar up to this size is read in one go; of a larger one only the parts for the files in question."""


class Digests:
    """The block digests of some files of a save, themselves checked against the manifest."""

    def __init__(self, blocks: Mapping[str, Sequence[int]]) -> None:
        self._blocks = blocks

    @classmethod
    def read(cls, store: Store, manifest: Manifest, sidecar: str, paths: set[str]) -> "Digests":
        """Read the digests of the given files from the sidecar."""
        files = [file for file in manifest.files if file.path in paths]
        total = sum(-(-file.size // BLOCK) for file in manifest.files) * 4
        whole = _read(store, sidecar, 0, total) if total <= _WHOLE_SIDECAR else None
        blocks = {}
        for file in files:
            start, length = file.first_block * 4, -(-file.size // BLOCK) * 4
            data = whole[start : start + length] if whole is not None else _read(store, sidecar, start, length)
            blocks[file.path] = digest.unpack(data)
            if digest.fold(blocks[file.path], file.size) != file.crc32c:
                raise CheckpointCorrupted(sidecar, f"does not agree with the manifest on {file.path}")
        return cls(blocks)

    def bad_block(self, file: str, start: int, data: Bytes) -> int | None:
        """Return the offset of the first block that does not match; `start` lies on a block's border."""
        expected = self._blocks.get(file)
        if expected is None:
            return None
        first = start // BLOCK
        for number, at in enumerate(range(0, len(data), BLOCK), first):
            if digest.crc32c(data[at : at + BLOCK]) != expected[number]:
                return number * BLOCK
        return None


class Fetcher:
    """Fetches for one load."""

    def __init__(
        self,
        store: Store,
        *,
        threads: int,
        digests: Digests | None = None,
        names: Callable[[str, int, int], list[str]] = lambda *_: [],
    ) -> None:
        self._store = store
        self._threads = threads
        self._digests = digests
        self._names = names
        self._local = threading.local()

    def run(self, requests: Sequence[Request], done: Callable[[int], None]) -> None:
        """Carry out all requests, in order and in parallel; the first error stops the rest and is raised."""
        stop = threading.Event()

        def one(request: Request) -> None:
            if not stop.is_set():
                self._one(request)
                done(sum(read.stop - read.start for read in request.reads))

        with ThreadPoolExecutor(self._threads, thread_name_prefix="dcp-read") as pool:
            futures = [pool.submit(one, request) for request in requests]
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            stop.set()
        for future in finished:
            future.result()

    def _one(self, request: Request) -> None:
        failpoints.reach("reading")
        length = request.stop - request.start
        try:
            data = as_bytes(self._store.read_range(request.file, request.start, length, self._scratch(length)))
        except EOFError:
            names = self._names(request.file, request.start, request.stop)
            raise CheckpointCorrupted(request.file, f"ends before byte {request.stop}", names) from None
        if self._digests:
            bad = self._digests.bad_block(request.file, request.start, data)
            if bad is not None:
                names = self._names(request.file, bad, bad + BLOCK)
                detail = f"the block at byte {bad} does not have the digest it was saved with"
                raise CheckpointCorrupted(request.file, detail, names)
        for read in request.reads:
            read.take(data[read.start - request.start : read.stop - request.start])

    def _scratch(self, length: int) -> memoryview:
        """Return this thread's buffer, so that one load does not fault in new pages for every request."""
        buffer = getattr(self._local, "buffer", None)
        if buffer is None or len(buffer) < length:
            buffer = self._local.buffer = np.empty(max(length, WINDOW + 2 * BLOCK), dtype=np.uint8)
        return buffer[:length].data  # type: ignore[no-any-return]


def _read(store: Store, path: str, start: int, length: int) -> bytes:
    if not length:
        return b""
    try:
        return bytes(store.read_range(path, start, length, memoryview(bytearray(length))))
    except EOFError:
        raise CheckpointCorrupted(path, f"ends before byte {start + length}") from None
