"""Carries out requests in parallel: receive into the tensors' own memory, and check the digests on the way.

A piece is digested while it is in the processor's cache. A block that does not match its digest stops the load; what
was filled until then is undefined.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from functools import partial

from dcp_engine import failpoints
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format.digest import BLOCK, as_bytes
from dcp_engine.stores.protocol import Store
from dcp_engine.stores.retry import retried
from dcp_engine.transfer import devices
from dcp_engine.transfer.block_digests import Check, Digests
from dcp_engine.transfer.ranges import RangeRequest


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
        check = Check(expected, request.start) if expected is not None else None
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
