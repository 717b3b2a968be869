"""Locks that keep replacers of one file apart: in this process, on this host, and on others that share the file system.

A folder is locked by flock, which local file systems keep for all processes, and which needs no right to write. NFS,
Lustre and their like keep a folder's lock on this host alone; what they share is the lock of a byte range in a file
that is open for writing. So the file that is replaced is locked, too. A lock ends with the process that holds it.

A range's lock belongs to the open file (`F_OFD_SETLK`), not to the process: a POSIX lock would not keep threads apart,
and any other part of the process that closes the file would end it. A child that is forked meanwhile has the same open
files: so each lock is given up by name, not by closing.
"""

import errno
import fcntl
import os
import random
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from dcp_engine.errors import StorageUnavailable, some
from dcp_engine.stores import folders

PATIENCE_SECONDS: Final = 60.0
"""How long a lock that another holds is waited for; who replaces a checkpoint holds it for some milliseconds."""
_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_LOCKS: Final = Path("/proc/locks")
_LOCK_PROCESS, _LOCK_INODE = 4, 5
_PAUSE_SECONDS: Final = 0.02
_HELD: Final = frozenset({errno.EAGAIN, errno.EACCES})
_NONE: Final = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EBADF, errno.ENOTTY})
"""How a file system says that it keeps no such locks."""
_RANGE: Final = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1 << 62, 1, 0)
"""One byte where no file has any: some servers refuse to read what is locked. The C struct flock of 64-bit Linux."""
_FREED_RANGE: Final = struct.pack("hhqqi4x", fcntl.F_UNLCK, os.SEEK_SET, 1 << 62, 1, 0)

_OF_ONE_HOST: Final = frozenset(
    [
        "bcachefs", "btrfs", "erofs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "jfs", "msdos", "nilfs2",
        "ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "ubifs", "vfat", "xfs", "zfs",
    ]
)  # fmt: skip
"""File systems that one host alone has mounted: the lock of a folder is all that it takes."""
_SHARED: Final = {
    "nfs": {"nolock", "local_lock=all", "local_lock=posix"},
    "nfs4": {"nolock", "local_lock=all", "local_lock=posix"},
    "lustre": {"localflock", "noflock"},
    "ceph": set[str](),
    "gfs2": {"localflocks", "lockproto=lock_nolock"},
    "gpfs": set[str](),
    "ocfs2": {"localflocks"},
}
"""File systems whose hosts share the locks of a file's ranges -> mount options under which they don't. Of what is in
neither table (FUSE, 9p, virtiofs, SMB) nobody can tell from here."""


@contextmanager
def held(folder: int, name: str) -> Iterator[int | None]:
    """Lock an open folder, and the file in it, if it is there and may be written to; give the locked file.

    Raises:
        StorageUnavailable: somebody holds the lock for a minute.
    """
    with _held_folder(folder, name), _held_file(folder, name) as file:
        yield file


@contextmanager
def _held_folder(folder: int, name: str) -> Iterator[None]:
    locked = _locked(folder, lambda: fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB), name, PATIENCE_SECONDS)
    try:
        yield
    finally:
        if locked:
            with suppress(OSError):  # it ends with the folder's descriptor at the latest
                fcntl.flock(folder, fcntl.LOCK_UN)


@contextmanager
def _held_file(folder: int, name: str) -> Iterator[int | None]:
    file = _open(folder, name)
    if file is None:
        yield None
        return
    try:
        locked = _lock_range(file, name, PATIENCE_SECONDS)
        try:
            yield file
        finally:
            if locked:
                with suppress(OSError):
                    fcntl.fcntl(file, fcntl.F_OFD_SETLK, _FREED_RANGE)
    finally:
        with suppress(OSError):  # nothing was written through it
            os.close(file)


def shared_by_all(root: Path, folder: int, draft: int, name: str) -> bool:
    """Tell whether `held` keeps out everybody who may replace a file in the folder: tried out on a new file there."""
    own = _lock_range(draft, name, 0)
    writable = _may_write(folder, name)
    try:
        mountinfo = _MOUNTINFO.read_text(errors="surrogateescape")
    except OSError:
        mountinfo = ""
    kind, options = mounted(mountinfo, str(root.resolve()))
    return keeps_apart(kind, options, file_locked=own and writable)


def keeps_apart(kind: str, options: frozenset[str], *, file_locked: bool) -> bool:
    """Tell whether our locks hold for all hosts that may have such a file system mounted."""
    if kind in _OF_ONE_HOST:
        return True
    return file_locked and kind in _SHARED and _SHARED[kind].isdisjoint(options)


def mounted(mountinfo: str, path: str) -> tuple[str, frozenset[str]]:
    """Return the type and the options of the file system that a resolved path lies on; proc(5) has the format."""
    found: tuple[int, str, frozenset[str]] = (-1, "", frozenset())
    for line in mountinfo.splitlines():
        mount, _, source = line.partition(" - ")
        fields, details = mount.split(" "), source.split(" ")
        if len(fields) <= _MOUNT_OPTIONS or not details[0]:
            continue
        point = _unescaped(fields[_MOUNT_POINT]).rstrip("/")
        # Of two at one point the later hides the earlier.
        if (path == point or path.startswith(f"{point}/")) and len(point) >= found[0]:
            options = ",".join([fields[_MOUNT_OPTIONS], *details[2:]])
            found = (len(point), details[0], frozenset(options.split(",")))
    return found[1], found[2]


_MOUNT_POINT: Final = 4
_MOUNT_OPTIONS: Final = 5


def is_current(file: int, version: object, version_of: Callable[[os.stat_result], object]) -> bool:
    """Tell whether a locked file still is the version that was read, and has a name.

    On NFS the locking of a file asks the server for its state, which a look at its name need not.
    """
    try:
        found = os.fstat(file)
    except OSError as error:
        if error.errno == errno.ESTALE:
            return False
        raise
    return found.st_nlink > 0 and version_of(found) == version


def _unescaped(text: str) -> str:
    for escape, character in ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\")):
        text = text.replace(escape, character)
    return text


def _open(folder: int, name: str) -> int | None:
    try:
        return folders.open_file(folder, name, os.O_RDWR)
    except (FileNotFoundError, PermissionError):
        return None
    except OSError as error:
        if error.errno == errno.EROFS:
            return None
        raise


def _may_write(folder: int, name: str) -> bool:
    """Tell whether the file can be opened for writing, as its lock needs; a new one can."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return True
    file = _open(folder, name)
    if file is None:
        return False
    os.close(file)
    return True


def _lock_range(file: int, name: str, patience: float) -> bool:
    return _locked(file, lambda: fcntl.fcntl(file, fcntl.F_OFD_SETLK, _RANGE), name, patience)


def _locked(file: int, lock: Callable[[], object], name: str, patience: float) -> bool:
    """Take a lock, as soon as nobody else has it; return False where there are none."""
    until = time.monotonic() + patience
    while True:
        try:
            lock()
        except OSError as error:
            if error.errno in _NONE:
                return False
            if error.errno not in _HELD:
                raise
            if time.monotonic() > until:
                who = some(_holders(file)) or "another process"
                raise StorageUnavailable(
                    f"{name}: {who} kept the lock for replacing it for {patience:g} s. Loads take no lock, a save for "
                    "some milliseconds: end what locks the checkpoint's folder, as flock(1) does."
                ) from error
        else:
            return True
        time.sleep(random.uniform(0, _PAUSE_SECONDS))  # noqa: S311 - no secret


def _holders(file: int) -> list[str]:
    """Return the processes that lock an open file or folder, as far as this host tells.

    The kernel shows no process of another host or container, and none for the lock of a range.
    """
    inode = os.fstat(file).st_ino
    try:
        lines = _LOCKS.read_text().splitlines()
    except OSError:
        return []
    return sorted({_process(pid) for pid in locked_by(lines, inode)})


def locked_by(lines: Iterable[str], inode: int) -> set[int]:
    """Return the ids of the processes that have a lock, not wait for one; proc_locks(5) has the format."""
    found = set()
    for line in lines:
        fields = line.split()
        if len(fields) > _LOCK_INODE and fields[1] != "->" and fields[_LOCK_INODE].endswith(f":{inode}"):
            found.add(int(fields[_LOCK_PROCESS]))
    return {pid for pid in found if pid > 0}


def _process(pid: int) -> str:
    try:
        name = Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return f"process {pid}"
    return f"process {pid} ({name})"
