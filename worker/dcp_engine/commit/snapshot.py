"""Reading what is committed at a URL, whoever wrote it: in bounds, and without unpickling anything in this process.

A save of ours is read along a chain. The trailer of `.metadata` has the manifest's sha256, and the manifest has the
digests of all other files. For a stock checkpoint a process of its own makes a manifest (`sandbox`). No torch here.
"""

import hashlib
import re
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from dcp_engine.commit import stored_sizes
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound, some
from dcp_engine.format import layout, sandbox
from dcp_engine.format.manifest import Manifest
from dcp_engine.stores.protocol import Store
from dcp_engine.translate import is_missing_file

_FREE: Final = 8 << 20
"""Bytes that a manifest or a `.metadata` may have, whatever it describes. A larger one must describe more bytes than it
has itself."""
_PIECE: Final = 8 << 20
_HOLE: Final = bytes(1 << 12)
"""Zeros, as a file system returns them for a block that was never written. JSON has no zero byte, and a pickle of names
and numbers never so many in a row."""
_FREE_PICKLE: Final = 16 << 20
_TIMES: Final = 16
"""`.metadata` of ours may have _FREE_PICKLE bytes and _TIMES the size of the manifest. Its pickle needs about twice the
manifest's size. A file with a hole has any size that somebody declares, and takes hours to read."""
_OWN_FILE: Final = re.compile(rb"data-[0-9a-f]{32}/__\d+_\d+\.distcp")
_RANK_LOCAL: Final = re.compile(r"__\d+\.metadata")
_LOOKED_AT: Final = 1000
"""Files in a folder without a checkpoint that are looked at, to say what it holds."""


@dataclass(frozen=True)
class Snapshot:
    """One committed checkpoint, as rank 0 read it for all ranks."""

    trailer: layout.Trailer | None
    """None where a stock writer saved."""
    encoded: bytes
    """The manifest's JSON, which matched the trailer; or what was made of a stock `.metadata`."""
    version: Any = None
    """The store's version of a stock `.metadata`, which says nothing itself of the save that it belongs to."""

    def manifest(self, url: str) -> Manifest:
        """Return the manifest; that of a stock checkpoint knows no sizes and no digests of files.

        Raises:
            CheckpointCorrupted: it is none, or says what can't be.
        """
        return _decode(self.encoded, self.trailer, url)

    @property
    def digest(self) -> str:
        """Return the manifest's sha256; empty for a stock checkpoint."""
        return self.trailer.sha256 if self.trailer else ""


def read(store: Store, name: str = layout.METADATA) -> Snapshot:
    """Return what is committed now; `.metadata` is read again where its data went away in between.

    Raises:
        CheckpointNotFound: nothing is committed; the message says what stands there instead.
        CheckpointCorrupted: it is damaged, or crafted to do harm.
    """
    end = _end(store, name)
    while True:
        trailer, _ = layout.parse_trailer(end)
        try:
            return Snapshot(trailer, _manifest(store, trailer)) if trailer else _of_stock(store, name)
        except (FileNotFoundError, _Replaced):
            again = _end(store, name)
            if again == end:
                raise CheckpointCorrupted(trailer.manifest if trailer else name, "is missing") from None
            end = again


def read_manifest(store: Store, trailer: layout.Trailer) -> Manifest:
    """Return the manifest that a trailer names, checked against its sha256."""
    return _decode(_manifest(store, trailer), trailer, store.url)


def metadata_of(store: Store, found: Snapshot) -> bytes:
    """Return all of the `.metadata` that a snapshot was read from, to commit it elsewhere.

    Raises:
        CheckpointCorrupted: it is larger than it can be, or its pickle is not the one that was written.
        FileNotFoundError: it is another one by now, or none.
    """
    if found.trailer is None:
        data, version = _whole(store, layout.METADATA, "")
        if version != found.version:
            raise FileNotFoundError(layout.METADATA)
        return data
    manifest = found.manifest(store.url)
    need_pickle_size(store.read(layout.METADATA, tail=1).size - len(found.trailer.encode()), manifest)
    data = store.read(layout.METADATA).data
    trailer, length = layout.parse_trailer(data[-layout.TAIL_BYTES :])
    if trailer != found.trailer:
        raise FileNotFoundError(layout.METADATA)
    if hashlib.sha256(memoryview(data)[: len(data) - length]).hexdigest() != manifest.metadata_sha256:
        raise CheckpointCorrupted(layout.METADATA, "does not have the sha256 that its manifest names")
    return data


def need_pickle_size(size: int, manifest: Manifest) -> None:
    """Refuse a pickle in `.metadata` that is larger than one of this manifest can be."""
    if size > _FREE_PICKLE + _TIMES * len(manifest.encode()):
        raise CheckpointCorrupted(layout.METADATA, f"has {size} bytes, more than its manifest can have a pickle of")


def not_found(store: Store, error: OSError | None = None) -> CheckpointNotFound:
    """Return the error for a URL at which nothing is committed; it says what stands there, as far as a look tells."""
    if isinstance(error, NotADirectoryError):
        return CheckpointNotFound(
            store.url, "it is a file, as torch.save writes, not a folder; dcp_engine.load_torch reads it"
        )
    names = [entry.path for entry in islice(store.list(""), _LOOKED_AT)]
    if local := sorted(filter(_RANK_LOCAL.fullmatch, names)):
        return CheckpointNotFound(
            store.url,
            f"it holds {some(local, 3)}, each of one rank alone, as dcp.save(use_collectives=False) writes; "
            "load it by dcp.load on as many ranks, and save it anew",
        )
    if any(name.endswith(".safetensors") for name in names):
        return CheckpointNotFound(store.url, "it holds safetensors, which dcp_engine.load_safetensors reads")
    return CheckpointNotFound(store.url)


class _Replaced(Exception):
    """`.metadata` is another one by now."""


def _end(store: Store, name: str) -> bytes:
    try:
        return store.read(name, tail=layout.TAIL_BYTES).data
    except (FileNotFoundError, NotADirectoryError) as error:
        if isinstance(error, FileNotFoundError) and not is_missing_file(error):
            raise
        raise not_found(store, error) from None


def _manifest(store: Store, trailer: layout.Trailer) -> bytes:
    data, _ = _whole(store, trailer.manifest, layout.data_folder(trailer.save_id))
    if hashlib.sha256(data).hexdigest() != trailer.sha256:
        raise CheckpointCorrupted(trailer.manifest, "does not have the sha256 that .metadata names")
    return data


def _decode(data: bytes, trailer: layout.Trailer | None, url: str) -> Manifest:
    try:
        return Manifest.decode(data, url, save_id=trailer.save_id if trailer else "")
    except ValueError as error:
        raise CheckpointCorrupted(trailer.manifest if trailer else layout.METADATA, str(error)) from error


def _of_stock(store: Store, name: str) -> Snapshot:
    pickled, version = _whole(store, name, "")
    trailer, _ = layout.parse_trailer(pickled)
    if trailer:
        raise _Replaced
    if _OWN_FILE.search(pickled):
        raise CheckpointCorrupted(name, "has lost its last line, which names the digests of what it names")
    try:
        return Snapshot(None, sandbox.manifest_of(pickled), version)
    except sandbox.Harmful as error:
        raise CheckpointCorrupted(name, f"can't be read: {error}") from error


def _whole(store: Store, path: str, described: str) -> tuple[bytes, Any]:
    """Read a file that describes those in a folder, and is not larger than they are; return its version, too."""
    blob = store.read(path, tail=_FREE)
    if blob.size <= len(blob.data):
        return blob.data, blob.version
    if blob.size > sum(entry.size for entry in store.list(described) if entry.path != path):
        raise CheckpointCorrupted(path, f"has {blob.size} bytes, more than all that it describes")
    stored_sizes.need(store, {path: [(0, blob.size)]})
    data = bytearray(blob.size)
    view = memoryview(data)
    for piece in store.fill(path, 0, [view[start : start + _PIECE] for start in range(0, len(view), _PIECE)]):
        # Files with holes take no room, and would vouch for one another's sizes.
        if _HOLE in bytes(piece):
            raise CheckpointCorrupted(path, "has a hole, which nobody writes")
    return bytes(data), blob.version
