"""Any other fsspec file system. Nothing of fsspec can compare and swap, so the guard is BestEffort.

Where a rename does not replace in one step, either, a replace that breaks off may leave a damaged `.metadata`.

`memory://` lives in one process: it serves single-rank tests.
"""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from dcp_engine.errors import CheckpointCorrupted, StaleVersion
from dcp_engine.format import layout
from dcp_engine.format.layout import FILE_LIMIT
from dcp_engine.stores import folders
from dcp_engine.stores.protocol import BEST_EFFORT, PART_SIZE, Blob, Buffer, Entry, Guarded, copied
from dcp_engine.stores.retry import TRIES


class FsspecStore:
    """A checkpoint's folder on an fsspec file system; see `Store`."""

    def __init__(self, url: str, options: Mapping[str, Any]) -> None:
        self.url = url
        self.writers = 1
        self.file_size = FILE_LIMIT
        self.keep_replaced = timedelta(0)
        self.readers = 4
        self.attempts = TRIES
        self._fs, self._root = fsspec.core.url_to_fs(url.rstrip("/"), **options)
        # Others refuse to rename over a file, some without a word, or copy and delete whatever the name matches.
        self._renames = isinstance(self._fs, LocalFileSystem) or "sftp" in self._fs.protocol

    def read(self, path: str, *, tail: int | None = None) -> Blob:
        """Read the file past the directory cache; the version is what the file system knows of it."""
        self._fs.invalidate_cache()
        self._refuse_links(path)
        info = self._fs.info(self._full(path))
        start = max(0, info["size"] - tail) if tail else None
        return Blob(self._fs.cat_file(self._full(path), start=start), _version(info), info["size"], _modified(info))

    def create(self, path: str, data: bytes) -> None:
        """Write unless the file exists."""
        self._fs.invalidate_cache()
        if self._fs.exists(self._full(path)):
            raise FileExistsError(path)
        self._make_parent(path)
        try:
            self._put(path, data)
        except BaseException:
            with suppress(Exception):
                self._remove_half(path, data)
            raise

    def replace(self, path: str, data: bytes, version: Any) -> None:  # noqa: ANN401 - see Store
        """Write if the file is still that version."""
        try:
            current = self.read(path, tail=1).version
        except FileNotFoundError:
            current = None
        if current != version:
            raise StaleVersion.of(path)
        self._put(path, data)

    def remove(self, path: str, version: Any) -> None:  # noqa: ANN401 - see Store
        """Remove the file if it is still that version."""
        try:
            current = self.read(path, tail=1).version
        except FileNotFoundError:
            current = None
        if current != version:
            raise StaleVersion.of(path)
        self._fs.rm_file(self._full(path))

    def write(self, path: str, chunks: Iterable[Buffer], *, part_size: int, parallel: int) -> None:
        """Stream through the file system's own buffer; discard on an error, never close half a file."""
        del parallel
        self._refuse_links(path)
        self._make_parent(path)
        file = self._fs.open(self._full(path), "wb", block_size=min(part_size, PART_SIZE))  # it copies what it buffers
        try:
            for chunk in chunks:
                file.write(chunk)
            file.close()
        except BaseException:
            with suppress(Exception):
                file.discard()
            with suppress(Exception):
                self._fs.rm_file(self._full(path))
            raise

    def fill(self, path: str, offset: int, targets: Iterable[memoryview]) -> Iterator[memoryview]:
        """Read a range as the file system hands it out and copy it once."""
        self._refuse_links(path)
        views = list(targets)
        end = offset + sum(map(len, views))
        yield from copied([self._fs.cat_file(self._full(path), start=offset, end=end)], views, path)

    def stored(self, path: str, ranges: Sequence[tuple[int, int]]) -> int:
        """Return all of them: fsspec knows no holes."""
        del path
        return sum(stop - start for start, stop in ranges)

    def list(self, prefix: str) -> Iterator[Entry]:
        """Find the files below a folder."""
        self._fs.invalidate_cache()
        self._refuse_links(prefix)
        cut = len(self._root) + 1
        for name, info in self._fs.find(self._full(prefix), detail=True).items():
            yield Entry(name[cut:], info["size"], _modified(info))

    def folders(self) -> Iterator[str]:
        """List the one folder."""
        self._fs.invalidate_cache()
        with suppress(FileNotFoundError):
            for info in self._fs.ls(self._root, detail=True):
                if info["type"] == "directory" and not info.get("islink"):
                    yield info["name"].rstrip("/").rpartition("/")[2]

    def empty_folders(self) -> Iterator[Entry]:
        """What is no file is not told apart from what is nothing."""
        return iter(())

    def delete(self, paths: Sequence[str]) -> None:
        """Remove the files one by one."""
        for folder in {path.rpartition("/")[0] for path in paths}:
            self._refuse_links(folder)
        for path in paths:
            with suppress(FileNotFoundError):
                self._fs.rm_file(self._full(path))

    def remove_root(self) -> None:
        """Remove the folder, and those of saves in it, where the file system knows folders."""
        with suppress(Exception):
            for name in self.folders():
                if layout.is_emptied_folder(f"{name}/"):
                    self._remove_empty(self._full(name))
            self._remove_empty(self._root)

    def now(self) -> datetime:
        """Write an empty file and ask for its date, where the file system keeps one."""
        path = self._full(f"probe.{uuid.uuid4().hex}.tmp")
        try:
            self._fs.pipe_file(path, b"")
            self._fs.invalidate_cache()
            return _modified(self._fs.info(path)) or datetime.now(UTC)
        finally:
            with suppress(Exception):
                self._fs.rm_file(path)

    def told_time(self) -> None:
        """Say that nothing tells it."""

    def guard(self, write: Guarded) -> str:
        """Return BestEffort: fsspec looks first and writes then."""
        del write
        return BEST_EFFORT

    def _put(self, path: str, data: bytes) -> None:
        """Write; where a rename replaces in one step, beside the name, which then never shows half a file."""
        if not self._renames:
            self._fs.pipe_file(self._full(path), data)
            return
        draft = self._full(f"{path}.{uuid.uuid4().hex}.tmp")
        try:
            self._fs.pipe_file(draft, data)
            self._fs.mv(draft, self._full(path))
            if self._fs.exists(draft):
                raise OSError(f"{path}: the file system did not rename {draft}")  # noqa: TRY301 - removes it, too
        except BaseException:
            with suppress(Exception):
                self._fs.rm_file(draft)
            raise

    def _remove_half(self, path: str, data: bytes) -> None:
        left = self._fs.cat_file(self._full(path))
        if left != data and data.startswith(left):  # else it is somebody else's
            self._fs.rm_file(self._full(path))

    def _remove_empty(self, folder: str) -> None:
        self._fs.invalidate_cache()
        if not self._fs.ls(folder):
            self._fs.rmdir(folder)

    def _refuse_links(self, path: str) -> None:
        """Refuse a link on the way, where the file system knows them; it may change after the look."""
        parts = folders.parts(path)
        for number in range(len(parts)):
            part = "/".join(parts[: number + 1])
            try:
                info = self._fs.info(self._full(part))
            except FileNotFoundError:
                return
            if info.get("islink") or info.get("type") == "link":
                raise CheckpointCorrupted(part, "is a symbolic link, which is not followed")

    def _full(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    def _make_parent(self, path: str) -> None:
        self._fs.makedirs(self._fs._parent(self._full(path)), exist_ok=True)  # noqa: SLF001 - has no public name


def _version(info: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(str(info.get(key)) for key in ("ETag", "etag", "md5", "version", "created", "mtime", "size"))


def _modified(info: Mapping[str, Any]) -> datetime | None:
    for key in ("LastModified", "last_modified", "mtime", "created"):
        if isinstance(value := info.get(key), datetime):
            return value
    return None
