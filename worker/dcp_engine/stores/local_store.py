"""A folder of a local or mounted file system.

Creating is a hard link from a finished, fsynced file: the link fails if the name is taken, and the name never shows
half a file. Replacing takes locks, checks the version again, and renames: see `locks`. Files and folders are
synced, since a commit that a power cut takes back is none. No link below the folder is followed: see `folders`.

Files and folders get the mode that the process's umask leaves.
"""

import errno
import os
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from dcp_engine.errors import InvalidOption, NotDurable, StaleVersion
from dcp_engine.format import layout
from dcp_engine.format.layout import FILE_LIMIT, METADATA
from dcp_engine.stores import folders, locks
from dcp_engine.stores.options import place_of
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT, Blob, Buffer, Entry, FileVersion, Guarded
from dcp_engine.stores.retry import TRIES

_FLUSH_BYTES: Final = 8 << 20
"""Dirty bytes after which the kernel is told to start writing, so that the final fsync finds little left to do."""

_READ_BYTES: Final = 512 << 10
"""Bytes read between two looks at them."""
_STREAMS: Final = 8
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
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
        self.keep_replaced = timedelta(0)

    def read(self, path: str, *, tail: int | None = None) -> Blob:
        """Return the file as it is now; the version is its inode with its times."""
        with folders.reading(self.root, path) as file:
            stat = os.fstat(file)
            start = max(0, stat.st_size - tail) if tail is not None else 0
            data = _read_all(file, start, stat.st_size)
        return Blob(data, _version(stat), stat.st_size, _modified(stat))

    def create(self, path: str, data: bytes) -> None:
        """Link a finished file to its name, which fails with FileExistsError if the name is taken."""
        with self._draft(path) as draft:
            draft.finish([data])
            if not draft.link(draft.target):
                draft.rename_locked()
            draft.unlink()
            _sync_name(draft.folder, path)

    def replace(self, path: str, data: bytes, version: Any) -> None:  # noqa: ANN401 - see Store
        """Rename over the file while holding its and the folder's lock, if it is still that version."""
        with self._draft(path) as draft:
            draft.finish([data])
            with locks.held(draft.folder, draft.target) as file:
                current = draft.version_of_target() == version
                if not current or (file is not None and not locks.is_current(file, version, _version)):
                    raise StaleVersion.of(path)
                draft.rename()
                _sync_name(draft.folder, path)

    def remove(self, path: str, version: Any) -> None:  # noqa: ANN401 - see Store
        """Unlink the file while holding its and the folder's lock, if it is still that version."""
        folder, name = folders.apart(path)
        try:
            with folders.opened(self.root, folder) as parent, locks.held(parent, name) as file:
                current = _version(os.stat(name, dir_fd=parent, follow_symlinks=False)) == version
                if not current or (file is not None and not locks.is_current(file, version, _version)):
                    raise StaleVersion.of(path)
                os.unlink(name, dir_fd=parent)
                _sync_name(parent, path)
        except FileNotFoundError as error:
            raise StaleVersion.of(path) from error

    def write(self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int) -> None:
        """Write the chunks one after the other straight from their memory."""
        del part_size, parallel  # the page cache is the only buffer
        with folders.creating(self.root, path) as (folder, file):
            _write_all(file, chunks)
            os.fsync(file)
            folders.sync(folder)

    def write_whole(
        self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int, overwrite: bool
    ) -> str:
        """Write a draft, and give it its name once it is whole and durable."""
        del part_size, parallel
        guard = ATOMIC
        with self._draft(path) as draft:
            if not overwrite and draft.version_of_target() is not None:
                raise FileExistsError(path)
            draft.finish(chunks)
            if overwrite:
                draft.rename()
            elif not draft.link(draft.target):
                guard = BEST_EFFORT
                draft.rename_locked()
            draft.unlink()
            _sync_name(draft.folder, path)
        return guard

    def fill(self, path: str, offset: int, targets: Iterable[memoryview]) -> Iterator[memoryview]:
        """Read straight into the targets."""
        with folders.reading(self.root, path) as file:
            size = os.fstat(file).st_size
            for target in targets:
                if offset + len(target) > size:
                    raise EOFError(path)
                view = target
                while view:
                    count = os.preadv(file, [view[:_READ_BYTES]], offset)
                    if not count:
                        raise EOFError(path)
                    yield view[:count]
                    view = view[count:]
                    offset += count

    def stored(self, path: str, ranges: Sequence[tuple[int, int]]) -> int:
        """Ask the file system where data are; one that knows no holes says everywhere."""
        with folders.reading(self.root, path) as file:
            if os.lseek(file, 0, os.SEEK_HOLE) >= os.fstat(file).st_size:
                return sum(stop - start for start, stop in ranges)
            return sum(_stored(file, start, stop) for start, stop in ranges)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Walk the folder."""
        for path, stat in folders.walk(self.root, prefix):
            yield Entry(path, stat.st_size, _modified(stat))

    def folders(self) -> Iterator[str]:
        """Look into the folder; a link in it is none."""
        with suppress(FileNotFoundError), folders.opened(self.root) as root, os.scandir(root) as entries:
            yield from (entry.name for entry in entries if entry.is_dir(follow_symlinks=False))

    def empty_folders(self) -> Iterator[Entry]:
        """Look into the folders that saves make."""
        for name, stat in folders.empty(self.root):
            yield Entry(f"{name}/", 0, _modified(stat))

    def delete(self, paths: Sequence[str]) -> None:
        """Unlink the files, and the folders that this leaves empty."""
        names: dict[str, list[str]] = defaultdict(list)
        for path in paths:
            if layout.is_emptied_folder(path):
                names[path[:-1]] += []
            else:
                folder, name = folders.apart(path)
                names[folder].append(name)
        for folder in sorted(names, reverse=True):
            folders.remove(self.root, folder, names[folder])

    def remove_root(self) -> None:
        """Remove the folder; a save that begins at that moment makes it anew."""
        with suppress(OSError):
            self.root.rmdir()

    def now(self) -> datetime:
        """Date the folder anew, which takes no room on a full disk, and leaves nothing behind."""
        if not self.root.exists():
            return datetime.now(UTC)
        with folders.opened(self.root) as descriptor:
            os.utime(descriptor)
            return _modified(os.fstat(descriptor))

    def guard(self, write: Guarded) -> str:
        """Return Atomic where the file system has what it takes: hard links, or locks that all its hosts share.

        It is tried out in the folder itself; a removal is to work on a full disk, too.
        """
        try:
            return self._tried(write)
        except OSError as error:
            if write != "remove" or error.errno not in _FULL:
                raise
            return BEST_EFFORT

    def _tried(self, write: Guarded) -> str:
        with self._draft("probe") as draft:
            if write != "create":
                shared = locks.shared_by_all(self.root, draft.folder, draft.file, METADATA)
                return ATOMIC if shared else BEST_EFFORT
            if not (self.root / METADATA).exists():
                folders.sync_above(self.root)
            link = f"{draft.name.removesuffix('.tmp')}.link"
            if not draft.link(link):
                return BEST_EFFORT
            os.unlink(link, dir_fd=draft.folder)
        return ATOMIC

    @contextmanager
    def _draft(self, path: str) -> Iterator["_Draft"]:
        """Give an empty file beside the target; remove it afterwards if it still has its own name."""
        folder, name = folders.apart(path)
        draft = f"{name}.{uuid.uuid4().hex}.tmp"
        with folders.creating(self.root, f"{folder}/{draft}" if folder else draft) as (parent, file):
            made = _Draft(parent, file, draft, name)
            try:
                yield made
            finally:
                made.unlink()


@dataclass(frozen=True)
class _Draft:
    """A file that gets its name once it is finished."""

    folder: int
    file: int
    name: str
    target: str

    def finish(self, chunks: Iterable[Buffer]) -> None:
        """Write all of it, and make it durable. The folders beside it that it speaks of were, by whoever made them."""
        _write_all(self.file, chunks)
        os.fsync(self.file)

    def link(self, name: str) -> bool:
        """Give it one more name, if that is free; return False if the file system has no hard links."""
        try:
            os.link(self.name, name, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError as error:
            # NFS says that the name is taken of our own link, too, if it had to ask twice.
            if self._has(name):
                return True
            if error.errno not in _NO_LINKS:
                raise
            return False
        return True

    def version_of_target(self) -> FileVersion | None:
        """Return the version of what has the name now."""
        return self._version_of(self.target)

    def rename(self) -> None:
        """Give it the name, whatever has it now."""
        try:
            os.rename(self.name, self.target, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        except OSError:
            if not self._has(self.target):  # else the answer got lost, and the name is to be made durable as any other
                raise

    def rename_locked(self) -> None:
        """Give it the name where hard links are not to be had: atomic among our own savers only."""
        with locks.held(self.folder, self.target):
            if self.version_of_target() is not None:
                raise FileExistsError(self.target)
            self.rename()

    def unlink(self) -> None:
        """Remove its own name, if it still has that; what stays is `clean`'s, and hides no other error."""
        with suppress(OSError):
            os.unlink(self.name, dir_fd=self.folder)

    def _has(self, name: str) -> bool:
        try:
            return self._version_of(name) == _version(os.fstat(self.file))
        except OSError:
            return False

    def _version_of(self, name: str) -> FileVersion | None:
        try:
            return _version(os.stat(name, dir_fd=self.folder, follow_symlinks=False))
        except FileNotFoundError:
            return None


def _path_of(url: str) -> Path:
    if "://" not in url:
        return Path(url).absolute()
    host, path = place_of(url)
    if host not in {"", "localhost"}:
        raise InvalidOption(f"{url}: a file URL has no host; write file:///path")
    return Path("/", path)


def _version(stat: os.stat_result) -> FileVersion:
    return FileVersion(stat.st_ino, stat.st_size, stat.st_mtime_ns)


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


def _sync_name(folder: int, path: str) -> None:
    """Make a name durable that is visible already: if that fails nobody knows what a power cut leaves."""
    try:
        folders.sync(folder)
    except OSError as error:
        raise NotDurable(error.errno, f"{error.strerror} (when its folder was synced)", path) from error


def _read_all(file: int, start: int, stop: int) -> bytes:
    pieces = []
    while start < stop and (piece := os.pread(file, stop - start, start)):
        pieces.append(piece)
        start += len(piece)
    return b"".join(pieces)


def _stored(file: int, start: int, stop: int) -> int:
    found = 0
    with suppress(OSError):  # ENXIO: nothing but a hole is left
        while (start := os.lseek(file, start, os.SEEK_DATA)) < stop:
            end = min(stop, os.lseek(file, start, os.SEEK_HOLE))
            found += end - start
            start = end
    return found


def _modified(stat: os.stat_result) -> datetime:
    return datetime.fromtimestamp(stat.st_mtime, UTC)
