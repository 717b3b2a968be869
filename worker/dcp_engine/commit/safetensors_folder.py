"""A folder of safetensors, looked at as a checkpoint: a tensor is one chunk of the file that holds it. No torch here.

Headers and index are a stranger's: they are read in bounds, and what they say is checked before memory is taken for it.
"""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from dcp_engine.commit import export_index, snapshot
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound
from dcp_engine.format import layout, safetensors
from dcp_engine.format.key_mapping import KeyMapping
from dcp_engine.format.manifest import Chunk, DataFile, Manifest, Tensor
from dcp_engine.format.safetensors import INDEX, SINGLE, StoredTensor
from dcp_engine.stores.protocol import Store
from dcp_engine.stores.retry import retried
from dcp_engine.translate import is_missing_file

_LENGTH_BYTES: Final = 8


@dataclass(frozen=True)
class FolderSnapshot(snapshot.Snapshot):
    """One folder, as rank 0 read its headers for all ranks."""

    versions: Mapping[str, Any] = field(default_factory=dict)
    """Of each file, before its header was read: other programs write a file anew under the name that it had."""


def read(store: Store, keys: Mapping[str, str] | None) -> FolderSnapshot:
    """Return the model at the URL: the one file if there is one, else what the index names, as transformers look.

    Args:
        store: The folder.
        keys: Globs over the names in the files -> the entries' names; None: as they are.

    Raises:
        CheckpointNotFound: There is neither.
        CheckpointCorrupted: An index, a header or a file's size can't be.
    """
    try:
        version = store.read(SINGLE, tail=1).version
        wanted = dict[str, list[str]]({SINGLE: []})
    except FileNotFoundError as error:
        if not is_missing_file(error):
            raise
        version, wanted = _of_index(store)
    with ThreadPoolExecutor(store.readers, thread_name_prefix="dcp-read") as pool:
        found = dict(zip(wanted, pool.map(lambda path: _tensors(store, path), wanted), strict=True))
    held = {path: tensors for path, (tensors, _) in found.items()}
    places = _places(held, wanted)
    names = KeyMapping(keys or {"*": "*"}).renamed(places) if places else {}
    manifest = Manifest(
        files=tuple(DataFile(path, 0) for path in held),
        tensors={new: places[name] for name, new in names.items()},
    )
    return FolderSnapshot(None, manifest.encode(), version, {path: seen for path, (_, seen) in found.items()})


def anchor(found: snapshot.Snapshot) -> str:
    """Return the file whose version tells the model from the next one: the index, or the one file."""
    return SINGLE if [file.path for file in found.manifest("").files] == [SINGLE] else INDEX


def _of_index(store: Store) -> tuple[Any, dict[str, list[str]]]:
    """Return the index's version, and file -> the tensors that it should hold."""
    there = export_index.found(store)
    if there is None:
        raise CheckpointNotFound(store.url, f"there is neither {SINGLE} nor {INDEX}")
    wanted: dict[str, list[str]] = {}
    for name, path in there.index.files.items():
        if not layout.may_be_stock(path):
            raise CheckpointCorrupted(INDEX, f"{path!r} is no file of this folder", [name])
        wanted.setdefault(path, []).append(name)
    return there.version, wanted


def _places(
    held: Mapping[str, Mapping[str, tuple[StoredTensor, int]]], wanted: Mapping[str, list[str]]
) -> dict[str, Tensor]:
    """Return all tensors by their names in the files; of a model in one file nothing says which they should be."""
    found: dict[str, Tensor] = {}
    for number, (path, names) in enumerate(wanted.items()):
        there = held[path]
        for name in names or there:
            if name not in there:
                raise CheckpointCorrupted(path, f"does not hold {name}, as {INDEX} says", [name])
            tensor, start = there[name]
            chunk = Chunk((0,) * len(tensor.shape), tensor.shape, number, start, tensor.size, 0)
            found[name] = Tensor(tensor.dtype, tensor.shape, (chunk,))
    return found


def _tensors(store: Store, path: str) -> tuple[dict[str, tuple[StoredTensor, int]], Any]:
    """Return the tensors in a file, each with the place of its first byte, and the version that the file had."""
    try:
        end = store.read(path, tail=1)
        size = end.size
        length = safetensors.header_length(read_range(store, path, 0, min(size, _LENGTH_BYTES)))
        start = _LENGTH_BYTES + length
        if start > size:
            raise CheckpointCorrupted(path, f"has {size} bytes, and its header would end at {start}")
        header = safetensors.parse_header(read_range(store, path, _LENGTH_BYTES, length), size - start)
    except FileNotFoundError as error:
        raise CheckpointCorrupted(path, f"is missing, and {INDEX} names it") from error
    except ValueError as error:
        raise CheckpointCorrupted(path, str(error)) from error
    return {name: (tensor, start + at) for name, (tensor, at) in header.items()}, end.version


def read_range(store: Store, path: str, start: int, length: int) -> bytes:
    """Return some bytes of a file; CheckpointCorrupted if it ends before."""

    def once() -> bytes:
        data = bytearray(length)
        for _ in store.fill(path, start, [memoryview(data)] if length else []):
            pass
        return bytes(data)

    try:
        return retried(once, store.attempts)
    except EOFError:
        raise CheckpointCorrupted(path, f"ends before byte {start + length}") from None
