"""A folder of a local or mounted file system.

Creating is a hard link from a finished, fsynced file: the link fails if the name is taken, and the name never shows
half a file. Replacing takes a lock on the folder itself, checks the version again, and renames. Files and folders are
synced, since a commit that a power cut takes back is none.
"""

import errno
import fcntl
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any, Final

from dcp_worker.engine.errors import InvalidOption, StaleVersion
from dcp_worker.engine.layout import FILE_LIMIT
from dcp_worker.engine.options import place_of
from dcp_worker.engine.retry import TRIES
from dcp_worker.engine.store import ATOMIC, BEST_EFFORT, Blob, Buffer, Entry

_FLUSH_BYTES: Final = 8 << 20
"""Dirty bytes after which the kernel is told to start writing, so that the final fsync finds little left to do."""

_READ_BYTES: Final = 512 << 10
"""Bytes read between two looks at them."""
_STREAMS: Final = 8
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})
"""How a file system says that it has no hard links."""


class LocalStore:
    """A checkpoint's folder on this machine's file systems; see `Store`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.root = _path_of(url)
        # Nothing here waits for a network: more threads than processors only get in one another's way.
        self.writers = self.readers = min(_STREAMS, len(os.sched_getaffinity(0)))
        self.attempts = TRIES
        self.file_size = FILE_LIMIT

    def read(self, path: str, *, tail: int | None = None) -> Blob:
        """Return the file as it is now; the version is its inode with its times."""
        with (self.root / path).open("rb", buffering=0) as file:
            stat = os.fstat(file.fileno())
            if tail is not None:
                file.seek(max(0, stat.st_size - tail))
            data = file.read()
        modified = datetime.fromtimestamp(stat.st_mtime, UTC)
        return Blob(data, _version(stat), stat.st_size, modified)

    def create(self, path: str, data: bytes) -> None:
        """Link a finished file to its name, which fails with FileExistsError if the name is taken."""
        target = self.root / path
        with self._finished(target, data) as draft:
            try:
                os.link(draft, target)
            except FileExistsError:
                raise
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                self._create_locked(draft, target)
        _sync_folder(target.parent)

    def replace(self, path: str, data: bytes, version: Any) -> None:  # noqa: ANN401 - see Store
        """Rename over the file while holding the folder's lock, if it is still that version."""
        target = self.root / path
        with self._finished(target, data) as draft, _locked(target.parent):
            try:
                current = _version(target.stat())
            except FileNotFoundError:
                current = None
            if current != version:
                raise StaleVersion.of(path)
            draft.rename(target)
        _sync_folder(target.parent)

    def write(self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int) -> None:
        """Write the chunks one after the other straight from their memory."""
        del part_size, parallel  # the page cache is the only buffer
        target = self.root / path
        with _new(target) as file:
            try:
                _write_all(file.fileno(), chunks)
                os.fsync(file.fileno())
            except BaseException:
                target.unlink(missing_ok=True)
                raise
        _sync_folder(target.parent)

    def fill(self, path: str, offset: int, targets: Iterable[memoryview]) -> Iterator[memoryview]:
        """Read straight into the targets."""
        descriptor = os.open(self.root / path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for target in targets:
                view = target
                while view:
                    count = os.preadv(descriptor, [view[:_READ_BYTES]], offset)
                    if not count:
                        raise EOFError(path)
                    yield view[:count]
                    view = view[count:]
                    offset += count
        finally:
            os.close(descriptor)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Walk the folder."""
        for folder, _, names in os.walk(self.root / prefix):
            for name in names:
                file = Path(folder, name)
                with suppress(FileNotFoundError):
                    stat = file.stat()
                    modified = datetime.fromtimestamp(stat.st_mtime, UTC)
                    yield Entry(file.relative_to(self.root).as_posix(), stat.st_size, modified)

    def delete(self, paths: Sequence[str]) -> None:
        """Unlink the files, and the folders that this leaves empty."""
        for path in paths:
            (self.root / path).unlink(missing_ok=True)
        for folder in sorted({(self.root / path).parent for path in paths}, reverse=True):
            if folder != self.root:
                with suppress(OSError):
                    folder.rmdir()

    def guard(self) -> str:
        """Return Atomic where the file system has hard links: tried out in the folder itself."""
        self.root.mkdir(parents=True, exist_ok=True)
        draft = self.root / f"probe.{uuid.uuid4().hex}.tmp"
        link = draft.with_suffix(".link")
        draft.touch(exist_ok=False)
        try:
            os.link(draft, link)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return BEST_EFFORT
        else:
            return ATOMIC
        finally:
            draft.unlink(missing_ok=True)
            link.unlink(missing_ok=True)

    @contextmanager
    def _finished(self, target: Path, data: bytes) -> Iterator[Path]:
        """Give a synced file beside the target; remove it afterwards if it still has its own name."""
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
        try:
            with draft.open("xb", buffering=0) as file:
                _write_all(file.fileno(), [data])
                os.fsync(file.fileno())
            yield draft
        finally:
            draft.unlink(missing_ok=True)

    def _create_locked(self, draft: Path, target: Path) -> None:
        """Create where hard links are not to be had: atomic among our own savers only."""
        with _locked(target.parent):
            if target.exists():
                raise FileExistsError(str(target))
            draft.rename(target)


def _path_of(url: str) -> Path:
    if "://" not in url:
        return Path(url).absolute()
    host, path = place_of(url)
    if host not in {"", "localhost"}:
        raise InvalidOption.with_host(url)
    return Path("/", path)


def _new(target: Path) -> FileIO:
    """Create the file; a rank that gives the save up may remove its empty folder in between."""
    for _ in range(TRIES):
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):
            return target.open("xb", buffering=0)
    return target.open("xb", buffering=0)


def _version(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def _write_all(descriptor: int, chunks: Iterable[Buffer]) -> None:
    written = flushed = 0
    for chunk in chunks:
        view = memoryview(chunk).cast("B")
        while view:
            count = os.write(descriptor, view)
            view = view[count:]
            written += count
        if written - flushed >= _FLUSH_BYTES:
            _start_writeback(descriptor, flushed, written - flushed)
            flushed = written


def _start_writeback(descriptor: int, offset: int, length: int) -> None:
    """Hand the dirty pages to the disk and let the page cache forget them: they are not read again soon."""
    with suppress(OSError):
        os.posix_fadvise(descriptor, offset, length, os.POSIX_FADV_DONTNEED)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # some network file systems can't sync a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
