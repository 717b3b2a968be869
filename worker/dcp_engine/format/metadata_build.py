"""From what every rank wrote to what `.metadata` and the manifest say about it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION
from torch.distributed.checkpoint.metadata import (
    STORAGE_TYPES,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.storage import WriteResult

from dcp_engine.format import layout
from dcp_engine.format.manifest import Chunk, Chunks, DataFile, Manifest, Tensor
from dcp_engine.torch_internals import StorageInfo


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


Places = Mapping[MetadataIndex, Written]


def complete(metadata: Metadata, results: Iterable[Iterable[WriteResult]], storage_meta: StorageMeta) -> Places:
    """Fill in what the storage layer owes to DCP's Metadata; return where everything is."""
    places = {result.index: result.storage_data for rank_results in results for result in rank_results}
    metadata.version = CURRENT_DCP_VERSION
    metadata.storage_meta = storage_meta
    metadata.storage_data = places
    return places


def data_files(places: Places) -> dict[str, tuple[DataFile, bytes]]:
    """Return path -> (file, its blocks' digests), in the order in which the digests go into the sidecar."""
    files: dict[str, tuple[DataFile, bytes]] = {}
    block = 0
    for place in places.values():
        if file := place.file:
            path = place.relative_path
            files[path] = (DataFile(path, file.size, file.crc32c, block), file.blocks)
            block += len(file.blocks) // 4
    return files


def tensors(metadata: Metadata, places: Places, files: Mapping[str, int]) -> dict[str, Tensor]:
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
    return {name: entry(metadata, name, Chunks(f"[{','.join(chunks[name])}]")) for name in chunks}


class _Texts(dict[tuple[int, ...], str]):
    """Offsets or sizes -> their JSON; they are few beside the chunks that have them."""

    def __missing__(self, box: tuple[int, ...]) -> str:
        text = self[box] = f"[{','.join(map(str, box))}]"
        return text


def stock_files(manifest: Manifest) -> list[str]:
    """Return the data files that a stock checkpoint names; nothing that a stock writer would not write."""
    return sorted(file.path for file in manifest.files if layout.is_stock_file(file.path))


def _dtype_name(properties: object) -> str:
    """Return a dtype as `float32`, without the module."""
    return str(getattr(properties, "dtype", "")).removeprefix("torch.")


def entry(metadata: Metadata, name: str, chunks: Sequence[Chunk]) -> Tensor:
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
