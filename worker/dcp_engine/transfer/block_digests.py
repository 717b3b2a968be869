"""The digests of a save's blocks: read from their sidecar, checked against the manifest, compared with what passes.

Needs no torch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from dcp_engine.commit import stored_sizes
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import digest, layout
from dcp_engine.format.digest import BLOCK, Bytes, Words
from dcp_engine.format.manifest import DataFile, Manifest
from dcp_engine.stores.protocol import Blob, Store
from dcp_engine.stores.retry import retried

_WHOLE_SIDECAR: Final = 4 << 20
"""A sidecar up to this size is read in one go; of a larger one only the parts for the files in question."""


class Digests:
    """The block digests of some files of a save, themselves checked against the manifest."""

    def __init__(self, blocks: Mapping[str, Words]) -> None:
        self.blocks = dict(blocks)

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

    def add(self, other: "Digests") -> None:
        """Take in those of other files."""
        self.blocks.update(other.blocks)

    def of(self, file: str) -> Words | None:
        """Return the digests of a file's blocks."""
        return self.blocks.get(file)

    def of_file(self, file: DataFile) -> Words:
        """Return the digests of a file that was asked for."""
        return self.blocks[file.path]


class Check:
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


def by_file(store: Store, manifest: Manifest) -> Callable[[DataFile], Words]:
    """Return what gives the digests of each file of a save: of a large save those of one file at a time are held."""
    path = layout.blocks_path(manifest.save_id)

    def read(files: Sequence[DataFile]) -> Digests:
        return Digests.read(store, manifest, path, {file.path for file in files})

    if sum(-(-file.size // BLOCK) for file in manifest.files) * 4 > _WHOLE_SIDECAR:
        return lambda file: read([file]).of_file(file)
    return read(manifest.files).of_file


def sidecar(manifest: Manifest, blocks_of: Callable[[DataFile], Words]) -> Iterator[bytes]:
    """Give the bytes of a save's sidecar, file by file."""
    for file in manifest.files:
        if blocks := digest.pack(blocks_of(file)):
            yield blocks


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
