"""A rank's data files on their way to the store: streamed in bounded memory, digested as their bytes pass."""

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from torch.distributed.checkpoint.planner import WriteItem
from torch.distributed.checkpoint.storage import WriteResult

from dcp_engine import failpoints
from dcp_engine.call_options import ProgressCallback
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import digest
from dcp_engine.format.metadata import Written, WrittenFile
from dcp_engine.stores.protocol import Buffer, Store
from dcp_engine.transfer import devices
from dcp_engine.transfer.checked_source import OtherFileFailed
from dcp_engine.transfer.file_plan import ONE_REQUEST, FilePlan, PlannedFile
from dcp_engine.transfer.meter import Meter
from dcp_engine.transfer.payload import Lookup, Payload
from dcp_engine.translate import translate


def write_files(
    plan: FilePlan, store: Store, lookup: Lookup, on_progress: ProgressCallback | None
) -> list[WriteResult]:
    """Write files in parallel and return where their items are; the first that fails stops the others.

    Raises:
        EngineError: that of the file that failed first.
    """
    meter = Meter(plan.size, on_progress)
    stopped = threading.Event()

    def write(file: PlannedFile) -> list[WriteResult]:
        try:
            return FileStream(file, lookup, meter, stopped).write(store)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(plan.at_once, "dcp-write", initializer=devices.own_device()) as pool:
        running = [pool.submit(write, file) for file in plan.files]
        try:
            wait(running)
        except BaseException:  # Ctrl-C: no file goes on to its end
            stopped.set()
            raise
    errors = [error for step in running if (error := step.exception())]
    if errors:
        first = next((error for error in errors if not isinstance(error, OtherFileFailed)), errors[0])
        raise translate(first) from first
    return [result for step in running for result in step.result()]


@dataclass(frozen=True)
class _StoredItem:
    """Where an item's bytes begin in the file."""

    item: WriteItem
    start: int
    payload: Payload


class FileStream:
    """Writes one file, once."""

    def __init__(self, file: PlannedFile, lookup: Lookup, meter: Meter, stopped: threading.Event) -> None:
        self._file = file
        self._lookup = lookup
        self._meter = meter
        self._stopped = stopped
        """Set by the first file that fails, for all."""
        self._blocks = digest.BlockDigest()
        self._digests: list[int] = []
        self._stored: list[_StoredItem] = []

    def write(self, store: Store) -> list[WriteResult]:
        """Write the file and return where its items are.

        Raises:
            OtherFileFailed: another one failed meanwhile.
        """
        payloads = self._payloads()
        in_one_request = isinstance(payloads, list) and self._need_little_memory(payloads)
        part_size, parallel = (ONE_REQUEST, 1) if in_one_request else self._file.parts()
        # What goes in one request counts once it is there: until then it may be sent again as a whole.
        pieces = self._pieces(payloads, metered=not in_one_request)
        store.write(self._file.path, pieces, part_size=part_size, parallel=parallel)
        if in_one_request:
            self._meter.add(self._blocks.size)
        self._digests += self._blocks.rest()
        return self._results()

    def _payloads(self) -> Iterable[Payload]:
        """Prepare the items: those of a small file now, those of a large one as they are sent."""
        payloads = (self._lookup.payload(item) for item in self._file.items)
        return list(payloads) if self._file.size <= ONE_REQUEST else payloads

    def _need_little_memory(self, payloads: list[Payload]) -> bool:
        """Tell whether all that does not lie in the tensors' own memory fits into the file's share."""
        return sum(payload.size for payload in payloads if not payload.in_place) <= self._file.memory

    def _pieces(self, payloads: Iterable[Payload], *, metered: bool) -> Iterator[Buffer]:
        """Give the file's bytes; note their digests and where each item begins."""
        blocks = self._blocks
        for item, payload in zip(self._file.items, payloads, strict=True):
            start = blocks.size
            for piece in payload.pieces():
                if self._stopped.is_set():
                    raise OtherFileFailed
                self._digests.extend(blocks.update(piece))
                yield piece.data
                if metered:
                    self._meter.add(len(piece))
                failpoints.reach("mid-part")
            if blocks.size - start != payload.size:
                raise CheckpointCorrupted(self._file.path, f"{item.index.fqn} changed its size while it was saved")
            self._stored.append(_StoredItem(item, start, payload))

    def _results(self) -> list[WriteResult]:
        """Return what rank 0 needs for the manifest; the first result carries what is known of the file as a whole."""
        size = self._blocks.size
        file = WrittenFile(size, digest.fold(self._digests, size), digest.pack(self._digests))
        return [
            WriteResult(
                stored.item.index,
                stored.payload.size,
                Written(
                    self._file.path,
                    stored.start,
                    stored.payload.size,
                    payload=stored.payload.offset,
                    file=None if number else file,
                ),
            )
            for number, stored in enumerate(self._stored)
        ]
