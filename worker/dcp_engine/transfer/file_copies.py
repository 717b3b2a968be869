"""The data files of a checkpoint on their way from one store to another, in bounded memory; what is there stays.

Needs no torch.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Final, NamedTuple

from dcp_engine import failpoints
from dcp_engine.call_options import CopyOptions
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format.digest import Words
from dcp_engine.format.manifest import DataFile, Manifest
from dcp_engine.stores.protocol import PART_SIZE, Buffer, NotesDigests, Store
from dcp_engine.stores.server_copy import LARGEST, ServerCopy
from dcp_engine.transfer.checked_source import CheckedSource, OtherFileFailed, Pace
from dcp_engine.transfer.meter import Meter
from dcp_engine.transfer.ranges import WINDOW

_SHARE: Final = 48 << 20
"""Memory of a file, before another is copied beside it: for one as saves write it to object stores, and a window."""
_MAX_PARTS: Final = 9_000
_MOST_AHEAD: Final = 8
_MOST_PARALLEL: Final = 12


class Buffers(NamedTuple):
    """How the memory of one file is spent."""

    part_size: int
    """Bytes of a part; those of all the file where it goes in one request."""
    parallel: int
    """Parts that travel at once."""
    ahead: int
    """Windows that are read before they are wanted."""


def files_at_once(count: int, writers: int, memory_limit: int) -> int:
    """Return how many of so many files are copied at the same time."""
    return max(1, min(writers, count, memory_limit // _SHARE))


def buffers(size: int, share: int) -> Buffers:
    """Return how a file of `size` bytes is copied within a share of the memory, and S3's 10,000 parts."""
    if size <= share - WINDOW:
        return Buffers(max(size, 1), 1, 1)
    part_size = max(PART_SIZE, -(-size // _MAX_PARTS))
    slots = share // part_size
    ahead = max(1, min(_MOST_AHEAD, slots // 4))
    return Buffers(part_size, max(1, min(_MOST_PARALLEL, slots - ahead - 2)), ahead)


@dataclass
class Tally:
    """How many files came in which way."""

    passed: int = 0
    """Through here, each block compared with its digest."""
    by_checksum: int = 0
    """Copied by the store, which answered with the checksum that the manifest has."""
    read: int = 0
    """Copied by the store, and read."""
    kept: int = 0
    """There already, from a copy that was cut short, and compared."""
    unchecked: int = 0
    """Nothing was compared: as was asked for, or for want of digests."""

    def words(self) -> str:
        """Return in words what was compared, and how."""
        ways = (
            (self.passed, "by the crc32c of each block"),
            (self.by_checksum, "by the crc32c that the store answered"),
            (self.read, "copied by the store, then read, by the crc32c of each block"),
            (self.kept, "there already, by crc32c"),
            (self.unchecked, "by size alone"),
        )
        return ", ".join(f"{count} file{'s' if count > 1 else ''} {how}" for count, how in ways if count) or "no files"


class FileCopies:
    """Copies files of one checkpoint, once."""

    def __init__(
        self,
        source: Store,
        destination: Store,
        manifest: Manifest,
        options: CopyOptions,
        server: ServerCopy | None,
        *,
        live: bool = False,
    ) -> None:
        self._source = source
        self._to = destination
        self._manifest = manifest
        self._options = options
        self._server = server
        self._live = live
        """The save is committed at the destination: what is good there is not written again. What is not is replaced by
        what was compared before, never by what the store copies and tells of then."""
        self._stopped = threading.Event()
        self._pace = Pace(options.bandwidth)
        self._lock = threading.Lock()
        self.tally = Tally()

    def run(
        self, files: Sequence[DataFile], there: Mapping[str, int], digests: Callable[[DataFile], Words | None]
    ) -> None:
        """Copy the files in parallel; the first that fails stops the others.

        Args:
            files: What is to be at the destination.
            there: The sizes of what is there already, by path.
            digests: Gives the digests of a file's blocks; None where nothing can be compared.

        Raises:
            EngineError: That of the file that failed first. FileNotFoundError: it is gone.
        """
        at_once = files_at_once(len(files), self._to.writers, self._options.memory_limit)
        share = self._options.memory_limit // at_once
        meter = Meter(sum(file.size for file in files), self._options.on_progress)

        def one(file: DataFile) -> None:
            try:
                self._copy(file, there.get(file.path), digests, share, meter)
            except BaseException:
                self._stopped.set()
                raise

        with (
            ThreadPoolExecutor(self._source.readers, "dcp-read") as readers,
            ThreadPoolExecutor(at_once, "dcp-copy") as pool,
        ):
            self._from = self._reading(self._source, readers)
            self._back = self._reading(self._to, readers)
            running = [pool.submit(one, file) for file in files]
            try:
                wait(running)
            except BaseException:  # Ctrl-C: no file goes on to its end
                self._stopped.set()
                raise
        errors = [error for step in running if (error := step.exception())]
        if errors:
            raise next((error for error in errors if not isinstance(error, OtherFileFailed)), errors[0])

    def _reading(self, store: Store, readers: ThreadPoolExecutor) -> CheckedSource:
        return CheckedSource(store, self._manifest, readers=readers, pace=self._pace, stopped=self._stopped)

    def _copy(
        self,
        file: DataFile,
        there: int | None,
        digests: Callable[[DataFile], Words | None],
        share: int,
        meter: Meter,
    ) -> None:
        if self._stopped.is_set():
            raise OtherFileFailed
        blocks = digests(file) if self._options.verify else None
        if there is not None:
            if there != file.size:
                there = self._size_now(file.path)  # another copy of this save may have finished it since
            if there == file.size and self._stands(file, blocks, meter):
                meter.add(file.size)
                return
            self._make_way(file, blocks, meter)
        server = self._server if file.size <= LARGEST and not self._live else None
        if server and self._copied_by_store(server, file, blocks, meter):
            meter.add(file.size)
            return
        self._stream(file, blocks, share, meter)
        self._count("unchecked" if blocks is None else "passed")

    def _size_now(self, path: str) -> int | None:
        try:
            return self._to.read(path, tail=1).size
        except FileNotFoundError:
            return None

    def _make_way(self, file: DataFile, blocks: Words | None, meter: Meter) -> None:
        """Remove a file that is not what it should be, where the store can't replace it in one step.

        What is committed there goes only for what is whole: it may be all that is left.
        """
        if isinstance(self._to, NotesDigests):
            return
        if self._live:
            for _ in self._from.pieces(file, blocks, ahead=1):
                meter.add(0)
        self._to.delete([file.path])

    def _stands(self, file: DataFile, blocks: Words | None, meter: Meter) -> bool:
        """Tell whether an earlier copy has left the file whole."""
        if file.crc32c is None:
            return False  # a stock checkpoint's: any other of the same model has files of the same size
        if blocks is None:
            good = True
        elif isinstance(self._to, NotesDigests):
            # It appeared when all of it had been compared, and what it was compared with is noted.
            told = self._server.checksum(file.path) if self._server else None
            good = file.crc32c in {told, self._to.noted(file.path)} or (
                self._live and self._reads_back(file, blocks, meter)
            )
        else:
            good = self._reads_back(file, blocks, meter)
        if good:
            self._count("unchecked" if blocks is None else "kept")
        return good

    def _copied_by_store(self, server: ServerCopy, file: DataFile, blocks: Words | None, meter: Meter) -> bool:
        done, crc32c = server.copy(file.path)
        failpoints.reach("mid-part")
        if not done:
            return False
        if blocks is None:
            self._count("unchecked")
        elif crc32c is not None:
            if crc32c != file.crc32c:
                self._to.delete([file.path])
                # Read as it passes, it says which block is damaged.
                return False
            self._count("by_checksum")
        elif self._reads_back(file, blocks, meter):
            self._count("read")
        else:
            self._to.delete([file.path])
            return False
        return True

    def _reads_back(self, file: DataFile, blocks: Words, meter: Meter) -> bool:
        try:
            for _ in self._back.pieces(file, blocks, ahead=1):
                meter.add(0)  # whoever watches sees that it goes on
        except (CheckpointCorrupted, FileNotFoundError):
            return False
        return True

    def _stream(self, file: DataFile, blocks: Words | None, share: int, meter: Meter) -> None:
        spent = buffers(file.size, share)

        def pieces() -> Iterator[Buffer]:
            for piece in self._from.pieces(file, blocks, ahead=spent.ahead):
                yield piece.data
                meter.add(len(piece))
                failpoints.reach("mid-part")

        if isinstance(self._to, NotesDigests):
            crc32c = None if blocks is None else file.crc32c
            self._to.write(file.path, pieces(), part_size=spent.part_size, parallel=spent.parallel, crc32c=crc32c)
        else:
            self._to.write(file.path, pieces(), part_size=spent.part_size, parallel=spent.parallel)

    def _count(self, how: str) -> None:
        with self._lock:
            setattr(self.tally, how, getattr(self.tally, how) + 1)
