"""Carries out requests in parallel: receive into the tensors' own memory, and check the digests on the way.

A piece is digested while it is in the processor's cache. A block that does not match its digest stops the load; what
was filled until then is undefined.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial
from typing import Final

from dcp_engine import failpoints
from dcp_engine.commit import stored_sizes
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import digest
from dcp_engine.format.digest import BLOCK, Bytes, Words, as_bytes
from dcp_engine.format.manifest import DataFile, Manifest
from dcp_engine.stores.protocol import Blob, Store
from dcp_engine.stores.retry import retried
from dcp_engine.transfer import devices
from dcp_engine.transfer.ranges import RangeRequest

_WHOLE_SIDECAR: Final = 4 << 20
"""A sidecar up to this size is read in one go; of a larger one only the parts for the files in question."""


class Digests:
    """The block digests of some files of a save, themselves checked against the manifest."""

    def __init__(self, blocks: Mapping[str, Words]) -> None:
        self._blocks = blocks

    @classmethod
    def read(cls, store: Store, manifest: Manifest, sidecar: str, paths: set[str]) -> "Digests":
        """Read the digests of the given files from the sidecar, whose size is compared before any of it is kept."""
        total = sum(-(-file.size // BLOCK) for file in manifest.files) * 4
        there = retried(
            lambda: store.read(sidecar, tail=_WHOLE_SIDECAR if total <= _WHOLE_SIDECAR else 4), store.attempts
        )
        if there.size != total:
            raise CheckpointCorrupted(sidecar, f"has {there.size} bytes, not the {total} that the manifest asks for")
        whole = there.data if total <= _WHOLE_SIDECAR else None
        if whole is None:
            _need_sizes(store, [file for file in manifest.files if file.path in paths])
            stored_sizes.need(store, {sidecar: [(0, total)]})
        blocks = {}
        for file in manifest.files:
            if file.path not in paths:
                continue
            start, length = file.first_block * 4, -(-file.size // BLOCK) * 4
            data = whole[start : start + length] if whole is not None else _read(store, sidecar, start, length)
            blocks[file.path] = digest.unpack(data)
            if digest.fold(blocks[file.path], file.size) != file.crc32c:
                raise CheckpointCorrupted(sidecar, f"does not agree with the manifest on {file.path}")
        return cls(blocks)

    def of(self, file: str) -> Words | None:
        """Return the digests of a file's blocks."""
        return self._blocks.get(file)


class _Check:
    """Compares the blocks of one request with their digests as the pieces pass."""

    def __init__(self, expected: Words, start: int) -> None:
        self._expected = expected
        self._number = start // BLOCK
        self._taken = digest.BlockDigest()

    def update(self, data: Bytes) -> int | None:
        """Take the next piece; return the offset of a block that does not match."""
        return self._compare(self._taken.update(data))

    def end(self) -> int | None:
        """Look at the last block of the file, which may be short."""
        return self._compare(self._taken.rest())

    def _compare(self, digests: Sequence[int]) -> int | None:
        for crc in digests:
            if crc != self._expected[self._number]:
                return self._number * BLOCK
            self._number += 1
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

    def run(self, requests: Sequence[RangeRequest], moved: Callable[[int], None]) -> None:
        """Carry out all requests, in order and in parallel; the first error stops the rest and is raised."""
        stop = threading.Event()

        def one(request: RangeRequest) -> None:
            if not stop.is_set():
                # The HTTP client tries again until the first byte of an answer; an answer that breaks off is ours.
                retried(partial(self._one, request), self._store.attempts)
                moved(sum(read.stop - read.start for read in request.reads))

        with ThreadPoolExecutor(self._threads, "dcp-read", initializer=devices.own_device()) as pool:
            futures = [pool.submit(one, request) for request in requests]
            finished, _ = wait(futures, return_when=FIRST_EXCEPTION)
            stop.set()
        for future in finished:
            future.result()

    def _one(self, request: RangeRequest) -> None:
        failpoints.reach("reading")
        expected = self._digests.of(request.file) if self._digests else None
        check = _Check(expected, request.start) if expected is not None else None
        targets = list(request.targets())
        try:
            for piece in self._store.fill(request.file, request.start, [memory.data for memory, _ in targets]):
                if check and (bad := check.update(as_bytes(piece))) is not None:
                    raise self._corrupted(request.file, bad)
        except EOFError:
            names = self._names(request.file, request.start, request.stop)
            raise CheckpointCorrupted(request.file, f"ends before byte {request.stop}", names) from None
        if check and (bad := check.end()) is not None:
            raise self._corrupted(request.file, bad)
        for memory, read in targets:
            if read and read.done:
                read.done(memory)

    def _corrupted(self, file: str, block: int) -> CheckpointCorrupted:
        detail = f"the block at byte {block} does not have the digest it was saved with"
        return CheckpointCorrupted(file, detail, self._names(file, block, block + BLOCK))


def ends_of(store: Store, paths: Sequence[str]) -> dict[str, Blob]:
    """Read the last byte of each file, in parallel: what tells its size and its version."""
    if not paths:
        return {}

    def end(path: str) -> Blob:
        return retried(lambda: store.read(path, tail=1), store.attempts)

    with ThreadPoolExecutor(store.readers, thread_name_prefix="dcp-read") as pool:
        return dict(zip(paths, pool.map(end, paths), strict=True))


def _need_sizes(store: Store, files: Sequence[DataFile]) -> None:
    """Compare the sizes of files with the manifest, before memory is taken for digests of what may not be there."""
    ends = ends_of(store, [file.path for file in files])
    for file in files:
        if (size := ends[file.path].size) != file.size:
            raise CheckpointCorrupted(file.path, f"has {size} bytes, not {file.size}")


def _read(store: Store, path: str, start: int, length: int) -> bytes:
    def once() -> bytes:
        data = bytearray(length)
        for _ in store.fill(path, start, [memoryview(data)]):
            pass
        return bytes(data)

    if not length:
        return b""
    try:
        return retried(once, store.attempts)
    except EOFError:
        raise CheckpointCorrupted(path, f"ends before byte {start + length}") from None
