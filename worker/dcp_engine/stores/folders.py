"""Files below a checkpoint's folder, reached by descriptors, one folder after the other: no link is followed.

The folder itself is what the user named, links on the way included. Below it stands only what saves made, and none of
them makes a link: whoever may write there could plant one that leads to a stranger's files. A link, a FIFO or a device
is refused with CheckpointCorrupted, at once.
"""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import takewhile
from pathlib import Path
from typing import Final, NamedTuple

from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import layout
from dcp_engine.stores.retry import TRIES

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Without O_NONBLOCK the opening of a FIFO waits for a writer, for ever."""
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NOT_SYNCED: Final = frozenset({errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF})
"""How file systems say that they do not sync folders. Any other error is a failure to sync."""
_DEEPEST: Final = 32
"""Folders in folders that are looked into; saves make one below the other at most. Each is reached from the root."""
_KINDS: Final = {
    stat.S_IFLNK: "is a symbolic link, which is not followed",
    stat.S_IFDIR: "is a folder, not a file",
    stat.S_IFREG: "is a file, not a folder",
    stat.S_IFIFO: "is a FIFO, not a file",
    stat.S_IFSOCK: "is a socket, not a file",
    stat.S_IFCHR: "is a device, not a file",
    stat.S_IFBLK: "is a device, not a file",
}


class File(NamedTuple):
    """A file that `walk` found."""

    path: str
    stat: os.stat_result


@contextmanager
def opened(root: Path, folder: str = "") -> Iterator[int]:
    """Open the root, or a folder below it; FileNotFoundError if it is not there."""
    descriptor = _open(root, folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def reading(root: Path, path: str) -> Iterator[int]:
    """Open a regular file for reading."""
    folder, name = apart(path)
    with opened(root, folder) as parent:
        descriptor = open_file(parent, name, path=root / path)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def creating(root: Path, path: str) -> Iterator[tuple[int, int]]:
    """Make a file that must not exist, and the folders above it; give the descriptors of its folder and of itself.

    If the block fails the file is removed.
    """
    parent, file = _create(root, path)
    try:
        yield parent, file
    except BaseException:
        # A disk that fails goes on failing, and the first error says what that means.
        with suppress(OSError):
            os.unlink(apart(path)[1], dir_fd=parent)
        for descriptor in (file, parent):
            with suppress(OSError):
                os.close(descriptor)
        raise
    try:
        os.close(file)
    finally:
        os.close(parent)


def open_file(folder: int, name: str, flags: int = os.O_RDONLY, *, path: Path | None = None) -> int:
    """Return the descriptor of a regular file in an open folder; `path` is what errors call it."""
    path = path or Path(name)
    with _named(path):
        # A device may do something when it is opened. The look after it is for what changed in between.
        _refuse_special(os.stat(name, dir_fd=folder, follow_symlinks=False), path)
        try:
            descriptor = os.open(name, flags | _READ, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _refused(path, stat.S_IFLNK) from None
            raise
        try:
            _refuse_special(os.fstat(descriptor), path)
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def walk(root: Path, folder: str = "") -> Iterator[File]:
    """Find the regular files below a folder, unless they lie absurdly deep; of links and the like nothing is said.

    A folder that is not there, or goes away meanwhile, is empty. One that can't be read is an error, unless no save
    made it and it may not be read, as `lost+found`.
    """
    inner: list[str] = []
    files: list[File] = []
    with suppress(FileNotFoundError), opened(root, folder) as descriptor, os.scandir(descriptor) as entries:
        for entry in entries:
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.is_dir(follow_symlinks=False):
                inner.append(path)
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):
                    files.append(File(path, os.stat(entry.name, dir_fd=descriptor, follow_symlinks=False)))
    # No folder is open where somebody may stop to read on: its end, and an error of it, would come at any time.
    yield from files
    for path in inner:
        if path.count("/") >= _DEEPEST:
            continue
        try:
            yield from walk(root, path)
        except PermissionError:
            top = path.partition("/")[0]
            if top == layout.REPLACED or layout.is_own_folder(top):
                raise


def empty(root: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Find the folders directly in the root that have a name of ours and nothing in them."""
    names = []
    with suppress(FileNotFoundError), opened(root) as descriptor, os.scandir(descriptor) as entries:
        names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
    for name in names:
        if not layout.is_emptied_folder(f"{name}/"):
            continue
        found = None
        with suppress(FileNotFoundError), opened(root, name) as descriptor, os.scandir(descriptor) as entries:
            if next(entries, None) is None:
                found = os.fstat(descriptor)
        if found is not None:
            yield name, found


def remove(root: Path, folder: str, names: Iterable[str]) -> None:
    """Unlink files of one folder, and the folder if that leaves it empty; what is not there is no error.

    Raises CheckpointCorrupted if the folder is a link or a mount point: then it is not one that a save made.
    """
    try:
        with opened(root, folder) as descriptor:
            if folder and os.fstat(descriptor).st_dev != root.stat().st_dev:
                raise CheckpointCorrupted(str(root / folder), "is a mount point; nothing in it is removed")
            for name in names:
                with _named(root / folder / name), suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=descriptor)
    except FileNotFoundError:
        return
    if folder:
        above, name = apart(folder)
        with suppress(OSError), opened(root, above) as descriptor:
            os.rmdir(name, dir_fd=descriptor)


def make_root(root: Path) -> None:
    """Make the folder and those above it that are missing, each of them durable before there is one in it."""
    for folder in reversed(list(takewhile(lambda path: not path.is_dir(), (root, *root.parents)))):
        try:
            folder.mkdir()
        except FileExistsError:
            if not folder.is_dir() and os.path.lexists(folder):  # it may be gone by now
                raise
        # Whoever may make a folder in another need not be allowed to read that.
        with _undone(folder), suppress(PermissionError), opened(folder.parent) as above:
            sync(above)


def sync_above(root: Path) -> None:
    """Make the entries of the root and of the folders above it durable, as far as its file system goes.

    A save that was killed may have made them, and not have come to syncing them.
    """
    device = root.stat().st_dev
    for folder in takewhile(lambda path: path.stat().st_dev == device, root.resolve().parents):
        with suppress(PermissionError), opened(folder) as above:
            sync(above)


def sync(folder: int) -> None:
    """Make the entries of an open folder durable."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NOT_SYNCED:
            raise


def parts(path: str) -> list[str]:
    """Return the names that a path below the checkpoint's URL consists of; none for the URL itself.

    Raises:
        CheckpointCorrupted: it may lead out of the checkpoint.
    """
    found = path.split("/") if path else []
    if not {"", ".", ".."}.isdisjoint(found) or "\0" in path:
        raise CheckpointCorrupted(path, "is no path below the checkpoint")
    return found


def apart(path: str) -> tuple[str, str]:
    """Return the folder and the name of a path below the root."""
    *above, name = parts(path)
    return "/".join(above), name


def _open(root: Path, folder: str) -> int:
    with _named(root / folder):
        descriptor = os.open(root, _FOLDER)
        try:
            for name in parts(folder):
                inner = _enter(descriptor, name, root / folder)
                os.close(descriptor)
                descriptor = inner
        except BaseException:
            os.close(descriptor)
            raise
    return descriptor


def _enter(parent: int, name: str, path: Path) -> int:
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        kind = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
        raise _refused(path, kind) from None


def _create(root: Path, path: str) -> tuple[int, int]:
    """Make the file; who gives a save up, or removes a checkpoint, may remove a folder in between that is empty."""
    folder, name = apart(path)
    for left in reversed(range(TRIES)):
        try:
            make_root(root)
            if folder:
                _make_folder(root, folder)
            parent = _open(root, folder)
            try:
                with _named(root / path):
                    return parent, os.open(name, _NEW, 0o666, dir_fd=parent)
            except BaseException:
                os.close(parent)
                raise
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError  # the last try raises or returns


def _make_folder(root: Path, folder: str) -> None:
    """Make a folder directly in the root."""
    with opened(root) as descriptor, suppress(FileExistsError):
        os.mkdir(folder, dir_fd=descriptor)
        with _undone(root / folder):
            sync(descriptor)


@contextmanager
def _undone(folder: Path) -> Iterator[None]:
    """Remove a new folder that could not be made durable: the next save would take it for one that is."""
    try:
        yield
    except BaseException:
        with suppress(OSError):
            folder.rmdir()
        raise


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Give errors the whole path: what was reached by a descriptor is called by its last part only."""
    try:
        yield
    except OSError as error:
        error.filename = str(path)
        raise


def _refuse_special(found: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise _refused(path, found.st_mode)


def _refused(path: Path, mode: int) -> CheckpointCorrupted:
    return CheckpointCorrupted(str(path), _KINDS.get(stat.S_IFMT(mode), "is no file"))
