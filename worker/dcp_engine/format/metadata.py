"""DCP's Metadata: completed by what every rank wrote, pickled, put into a manifest, and made from one again.

The pickle is for stock readers, whom our trailer behind it does not disturb. Nothing here unpickles: what planners are
given is what the manifest says. Pure: no IO.
"""

import copyreg
import hashlib
import io
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Final

import torch
from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    BytesStorageMetadata,
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format.manifest import Chunk, Chunks, DataFile, Manifest, Tensor
from dcp_engine.gc_pause import uncollected
from dcp_engine.torch_internals import StorageInfo

_PROPERTIES: Final = 5
"""What every torch keeps of a tensor's properties. Since 2.15 there are strides, too, on which earlier ones choke."""


@dataclass(frozen=True)
class WrittenFile:
    """A data file as its writer saw it pass: its size and the digests of its blocks."""

    size: int
    crc32c: int
    blocks: bytes


@dataclass
class Written(StorageInfo):
    """Where one item went, as a WriteResult's storage data: DCP's own note, and what the manifest says beyond it."""

    payload: int | None = None
    file: WrittenFile | None = None
    """With a file's first item, the file itself."""


@dataclass(frozen=True)
class Described:
    """What a save says of itself beside its data files."""

    manifest: Manifest
    pickled: bytes
    """What stands in `.metadata` before the trailer."""
    blocks: bytes
    """The digests of all blocks of all data files, for their sidecar."""


def described(
    metadata: Metadata, results: Iterable[Iterable[WriteResult]], storage_meta: StorageMeta, save: Manifest
) -> Described:
    """Describe what every rank wrote; rank 0 calls it.

    Args:
        metadata: What the planner made of all ranks' plans; it is completed.
        results: What each rank wrote.
        storage_meta: DCP's note of where the checkpoint lies.
        save: What is known of the save beyond that: whose it is, when it was made.
    """
    places = complete(metadata, results, storage_meta)
    pickled = dump(metadata)
    files = _data_files(places)
    manifest = replace(
        save,
        metadata_sha256=hashlib.sha256(pickled).hexdigest(),
        files=tuple(file for file, _ in files.values()),
        tensors=_tensors(metadata, places, {path: number for number, path in enumerate(files)}),
    )
    return Described(manifest, pickled, b"".join(digests for _, digests in files.values()))


def complete(
    metadata: Metadata, results: Iterable[Iterable[WriteResult]], storage_meta: StorageMeta
) -> Mapping[MetadataIndex, Written]:
    """Fill in what the storage layer owes to DCP's Metadata; return where everything is."""
    places = {result.index: result.storage_data for rank_results in results for result in rank_results}
    metadata.version = CURRENT_DCP_VERSION
    metadata.storage_meta = storage_meta
    metadata.storage_data = places
    return places


def _data_files(places: Mapping[MetadataIndex, Written]) -> dict[str, tuple[DataFile, bytes]]:
    """Return path -> (file, its blocks' digests), in the order in which the digests go into the sidecar."""
    files: dict[str, tuple[DataFile, bytes]] = {}
    block = 0
    for place in places.values():
        if file := place.file:
            path = place.relative_path
            files[path] = (DataFile(path, file.size, file.crc32c, block), file.blocks)
            block += len(file.blocks) // 4
    return files


def _tensors(
    metadata: Metadata, places: Mapping[MetadataIndex, Written], files: Mapping[str, int]
) -> dict[str, Tensor]:
    """Return the manifest's entries; `files` numbers the data files. Their chunks are written as JSON at once."""
    chunks: dict[str, list[str]] = {name: [] for name in metadata.state_dict_metadata}
    sizes = {name: _chunk_sizes(stored) for name, stored in metadata.state_dict_metadata.items()}
    texts = _Texts()
    for index, place in places.items():
        box = index.offset or ()
        chunks[index.fqn].append(
            f"[{texts[box]},{texts[sizes[index.fqn].get(box, ())]},{files[place.relative_path]},{place.offset},"
            f"{place.length},{'null' if place.payload is None else place.payload}]"
        )
    return {name: _entry(metadata, name, Chunks(f"[{','.join(chunks[name])}]")) for name in chunks}


class _Texts(dict[tuple[int, ...], str]):
    """Offsets or sizes -> their JSON; they are few beside the chunks that have them."""

    def __missing__(self, box: tuple[int, ...]) -> str:
        text = self[box] = f"[{','.join(map(str, box))}]"
        return text


def _dtype_name(properties: object) -> str:
    """Return a dtype as `float32`, without the module."""
    return str(getattr(properties, "dtype", "")).removeprefix("torch.")


def _entry(metadata: Metadata, name: str, chunks: Sequence[Chunk]) -> Tensor:
    """Return the manifest's entry of one name in the state dict."""
    stored = metadata.state_dict_metadata[name]
    path = _path(metadata.planner_data, name)
    if isinstance(stored, TensorStorageMetadata):
        return Tensor(_dtype_name(stored.properties), tuple(stored.size), chunks, path)
    return Tensor(None, (), chunks, path)


def _path(paths: object, name: str) -> tuple[str | int, ...]:
    """Return where DCP's own planner found an entry; () if that is its name, or a planner of another kind saved."""
    path = tuple(paths.get(name, ())) if isinstance(paths, Mapping) else ()
    plain = path != (name,) and all(type(key) in {str, int} for key in path)
    return path if plain else ()


def _chunk_sizes(stored: STORAGE_TYPES) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Return offsets -> sizes of a tensor's chunks."""
    return {chunk.offsets: chunk.sizes for chunk in stored.chunks} if isinstance(stored, TensorStorageMetadata) else {}


class _Pickler(pickle.Pickler):
    """Writes the classes of which there are millions as calls of their constructors: faster, and half the size.

    Names, paths, offsets and sizes come from many ranks; equal ones are written once. A `Written` is pickled as torch's
    own storage info, which stock readers of any release know.
    """

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        known: dict[Any, Any] = {}
        once = known.setdefault

        def index(of: MetadataIndex) -> tuple[Any, ...]:
            return MetadataIndex, (once(of.fqn, of.fqn), once(of.offset, of.offset), of.index)

        def chunk(of: ChunkStorageMetadata) -> tuple[Any, ...]:
            return ChunkStorageMetadata, (once(of.offsets, of.offsets), once(of.sizes, of.sizes))

        def place(of: Written) -> tuple[Any, ...]:
            return StorageInfo, (once(of.relative_path, of.relative_path), of.offset, of.length)

        def properties(of: TensorProperties) -> tuple[Any, ...]:
            new = copyreg.__newobj__  # type: ignore[attr-defined] # pickle has an opcode for it
            return new, (TensorProperties,), of.__getstate__()[:_PROPERTIES]  # type: ignore[no-untyped-call]

        self.dispatch_table = copyreg.dispatch_table | {
            MetadataIndex: index,
            ChunkStorageMetadata: chunk,
            Written: place,
            TensorProperties: properties,
        }


def dump(metadata: Metadata) -> bytes:
    """Pickle for stock readers."""
    file = io.BytesIO()
    with uncollected():
        _Pickler(file).dump(metadata)
    return file.getvalue()


class Places(Mapping[MetadataIndex, StorageInfo]):
    """Metadata's storage_data, read from the manifest when it is asked for: a load asks the manifest itself."""

    def __init__(self, manifest: Manifest) -> None:
        self._manifest = manifest

    def __getitem__(self, index: MetadataIndex) -> StorageInfo:
        chunk = self._manifest.chunk(index.fqn, tuple(index.offset or ()))
        return StorageInfo(self._manifest.files[chunk.file].path, chunk.offset, chunk.length)

    def __iter__(self) -> Iterator[MetadataIndex]:
        for name, tensor in self._manifest.tensors.items():
            for chunk in tensor.chunks:
                yield MetadataIndex(name, None if tensor.dtype is None else torch.Size(chunk.offsets))

    def __len__(self) -> int:
        return sum(len(tensor.chunks) for tensor in self._manifest.tensors.values())


def of(manifest: Manifest, *, of_one_rank: bool = False) -> Metadata:
    """Return DCP's Metadata for what a manifest describes; `of_one_rank`, tensors need not be whole.

    Raises:
        CheckpointCorrupted: the parts of a tensor are not the tensor, or its dtype is none of torch's.
    """
    state: dict[str, STORAGE_TYPES] = {}
    with uncollected():
        for name, tensor in manifest.tensors.items():
            chunks = list(tensor.chunks)
            if not of_one_rank and sum(prod(chunk.sizes) for chunk in chunks) != prod(tensor.shape):
                raise CheckpointCorrupted(manifest.source, f"the parts of {name} are not all of it", [name])
            state[name] = BytesStorageMetadata() if tensor.dtype is None else _stored(manifest, name, tensor, chunks)
        paths = {name: tensor.path or (name,) for name, tensor in manifest.tensors.items()}
    meta = StorageMeta(checkpoint_id=manifest.url, save_id=manifest.save_id or None)
    return Metadata(state, paths, Places(manifest), meta, CURRENT_DCP_VERSION)


def _stored(manifest: Manifest, name: str, tensor: Tensor, chunks: Sequence[Chunk]) -> TensorStorageMetadata:
    dtype = getattr(torch, tensor.dtype or "", None)
    if not isinstance(dtype, torch.dtype):
        detail = f"{name} has dtype {tensor.dtype}, which torch {torch.__version__} has not"
        raise CheckpointCorrupted(manifest.source, detail, [name])
    boxes = [ChunkStorageMetadata(torch.Size(chunk.offsets), torch.Size(chunk.sizes)) for chunk in chunks]
    return TensorStorageMetadata(TensorProperties(dtype), torch.Size(tensor.shape), boxes)
