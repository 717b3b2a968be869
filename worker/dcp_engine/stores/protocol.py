"""The protocol of a store: the few operations that the engine needs of an object store or a file system.

Paths are relative to the checkpoint's URL and use `/`. `FileNotFoundError` and `FileExistsError` are part of the
protocol; every other error is the library's own, for `dcp_engine.translate`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

Buffer: TypeAlias = bytes | bytearray | memoryview

PART_SIZE: Final = 8 << 20
"""Bytes of one part of an upload and of one ranged read."""
MEMORY_LIMIT: Final = 256 << 20
"""Default bytes that a rank may hold for transfers, beyond the state itself."""

ATOMIC: Final = "Atomic"
BEST_EFFORT: Final = "BestEffort"
Guarded: TypeAlias = Literal["create", "replace", "remove"]
"""The conditional changes: they are refused where another writer was first."""


def weaker(*guards: str) -> str:
    """Return the weakest of several guards: one BestEffort makes all of a commit BestEffort."""
    return BEST_EFFORT if BEST_EFFORT in guards else ATOMIC


class FileVersion(NamedTuple):
    """What tells one version of a file from another, on the host that sees it."""

    number: int
    """Its inode, which is one mount's: FUSE counts files as they are looked up, and an image is copied to each node."""
    size: int
    modified_ns: int


def of_any_host(version: Any) -> Any:  # noqa: ANN401 - see Store
    """Return what all hosts see alike of a version."""
    return version[1:] if isinstance(version, FileVersion) else version


@dataclass(frozen=True)
class Blob:
    """The bytes of a small file, or of its end, with what tells this version of it from another."""

    data: bytes
    version: Any
    size: int
    modified: datetime | None = None


@dataclass(frozen=True)
class Entry:
    """One file of a listing."""

    path: str
    size: int
    modified: datetime | None = None


@runtime_checkable
class Store(Protocol):
    """A folder of files in some store."""

    url: str
    writers: int
    """Files that one rank best writes at once."""
    file_size: int
    """Bytes of a file that is written as fast as the store can."""
    readers: int
    """Ranges that one rank best reads at once."""
    attempts: int
    """Tries of one `fill` in all; its caller makes them, since what was filled before is filled anew."""

    keep_replaced: timedelta
    """How long the data of a replaced save are kept, where nobody says otherwise."""

    def read(self, path: str, *, tail: int | None = None) -> Blob:
        """Return a small file, or its last `tail` bytes, as it is now: past any cache."""

    def create(self, path: str, data: bytes) -> None:
        """Write a small file that must not exist: of many callers at most one succeeds, the rest get FileExistsError.

        Where the guard of "create" is BestEffort two callers at the same instant may both succeed.
        """

    def replace(self, path: str, data: bytes, version: Any) -> None:  # noqa: ANN401 - opaque to the caller
        """Write a small file over the `version` that `read` returned; raise StaleVersion if it is another by now.

        Raises NotDurable if the file is there, and it is not known whether it is there to stay.
        """

    def remove(self, path: str, version: Any) -> None:  # noqa: ANN401 - opaque to the caller
        """Remove a small file if it is still the `version` that `read` returned; raise StaleVersion if it is not.

        One that is gone by now may be either. Raises NotDurable as `replace` does.
        """

    def write(self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int) -> None:
        """Stream a new file. On an error no file stays.

        Chunks may be referred to, not copied, until the call returns: `part_size * (parallel + 1)` bytes at most.
        """

    def fill(self, path: str, offset: int, targets: Iterable[memoryview]) -> Iterator[memoryview]:
        """Fill the targets, one after the other, from a range of a file; give each piece as soon as it is there.

        Raises EOFError if the file ends before that.
        """

    def stored(self, path: str, ranges: Sequence[tuple[int, int]]) -> int:
        """Return how many bytes of some ranges of a file, each from start to stop, are stored: less where holes are."""

    def list(self, prefix: str) -> Iterator[Entry]:
        """List the files under a folder, at any depth."""

    def folders(self) -> Iterator[str]:
        """Give the names of the folders directly below the URL; where a store can, without a look at their files."""

    def empty_folders(self) -> Iterator[Entry]:
        """List the folders of saves that hold nothing, each with a `/` behind it, where a store has folders."""

    def delete(self, paths: Sequence[str]) -> None:
        """Remove files, and folders that `empty_folders` gave; one that is not there is no error."""

    def remove_root(self) -> None:
        """Remove the folder of the URL itself, if there are folders and it is empty; never an error."""

    def now(self) -> datetime:
        """Return the time by the clock that files are dated with, which need not be this host's."""

    def guard(self, write: Guarded) -> str:
        """Return whether such a change is refused atomically: `Atomic`, or `BestEffort`. May ask the store, once.

        Of a change whose answer got lost, only a guard that is Atomic tells that it will not happen any more.
        """


@runtime_checkable
class NotesDigests(Protocol):
    """A store whose files appear whole or not at all, each with a note of what was written."""

    def write(
        self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int, crc32c: int | None = None
    ) -> None:
        """Stream a new file as any store does, and note beside it the CRC-32C of all its bytes, if one is given."""

    def noted(self, path: str) -> int | None:
        """Return the CRC-32C that a file was written with, or None where nobody noted any."""


@runtime_checkable
class WritesWhole(Protocol):
    """A store in which a large file appears under its name whole or not at all, in place of another or not."""

    def write_whole(
        self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int, overwrite: bool
    ) -> str:
        """Stream a file, which appears with its last byte; return the guard under which it did.

        Raises FileExistsError if there is one already and `overwrite` is false; looked at before the first byte is
        drawn, and again before the file appears. Where the guard is BestEffort two callers at the same instant may
        both succeed.
        """


@runtime_checkable
class TellsTime(Protocol):
    """A store whose `now` writes something, and which can tell the time without that."""

    def told_time(self) -> datetime | None:
        """Return the time that an answer of the store names, in whole seconds; None where none does."""


def copied(pieces: Iterable[Buffer], targets: Iterable[memoryview], path: str) -> Iterator[memoryview]:
    """Copy pieces of any size into targets of any size; what `fill` is where a library hands out its own memory."""
    source = iter(pieces)
    rest = memoryview(b"")
    for target in targets:
        view = target
        while view:
            while not rest:
                try:
                    rest = memoryview(next(source))
                except StopIteration:
                    raise EOFError(path) from None
            count = min(len(view), len(rest))
            view[:count] = rest[:count]
            yield view[:count]
            view, rest = view[count:], rest[count:]


def begun(stream: Iterator[Buffer], part_size: int) -> tuple[list[Buffer], bool]:
    """Return the first chunks, of more than a part together, and whether they are all there are."""
    head: list[Buffer] = []
    size = 0
    for chunk in stream:
        head.append(chunk)
        size += len(chunk)
        if size > part_size:
            return head, False
    return head, True
