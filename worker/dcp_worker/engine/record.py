"""From what every rank wrote to what `.metadata` and the manifest say about it. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from torch.distributed.checkpoint.filesystem import CURRENT_DCP_VERSION, _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, StorageMeta, TensorStorageMetadata
from torch.distributed.checkpoint.storage import WriteResult

from dcp_worker.engine.manifest import Chunk, DataFile, Tensor

_STOCK_NAME: Final = re.compile(r"__\d+_\d+\.distcp")


@dataclass(frozen=True)
class WrittenFile:
    """A data file as its writer saw it pass: its size and the digests of its blocks."""

    size: int
    crc32c: int
    blocks: bytes


@dataclass(frozen=True)
class Written:
    """Where one item went, as a WriteResult's storage data. A file's first item carries the file itself."""

    path: str
    offset: int
    payload: int | None
    file: WrittenFile | None = None


Results = Mapping[MetadataIndex, WriteResult]


def data_files(results: Iterable[WriteResult]) -> dict[str, tuple[DataFile, bytes]]:
    """Return path -> (file, its blocks' digests), in the order in which the digests go into the sidecar."""
    files: dict[str, tuple[DataFile, bytes]] = {}
    block = 0
    for result in results:
        written: Written = result.storage_data
        if file := written.file:
            files[written.path] = (DataFile(written.path, file.size, file.crc32c, block), file.blocks)
            block += len(file.blocks) // 4
    return files


def complete(metadata: Metadata, results: Results, storage_meta: StorageMeta) -> None:
    """Fill in what the storage layer owes to DCP's Metadata, in stock DCP's own classes."""
    metadata.version = CURRENT_DCP_VERSION
    metadata.storage_meta = storage_meta
    metadata.storage_data = {
        index: _StorageInfo(result.storage_data.path, result.storage_data.offset, result.size_in_bytes)
        for index, result in results.items()
    }


def tensors(metadata: Metadata, results: Results, files: Mapping[str, int]) -> dict[str, Tensor]:
    """Return the manifest's entries; `files` numbers the data files."""
    chunks: dict[str, list[Chunk]] = {name: [] for name in metadata.state_dict_metadata}
    sizes = _chunk_sizes(metadata)
    for index, result in results.items():
        written: Written = result.storage_data
        box = tuple(index.offset or ())
        chunks[index.fqn].append(
            Chunk(
                box,
                sizes.get((index.fqn, box), ()),
                files[written.path],
                written.offset,
                result.size_in_bytes,
                written.payload,
            )
        )
    return {name: entry(metadata, name, chunks[name]) for name in chunks}


def stock_files(metadata: Metadata) -> list[str]:
    """Return the data files that a stock checkpoint's metadata names; nothing that a stock writer would not write."""
    infos = (metadata.storage_data or {}).values()
    names = {info.relative_path for info in infos if isinstance(info, _StorageInfo)}
    return sorted(name for name in names if _STOCK_NAME.fullmatch(name))


def _dtype_name(properties: object) -> str:
    """Return a dtype as `float32`, without the module."""
    return str(getattr(properties, "dtype", "")).removeprefix("torch.")


def entry(metadata: Metadata, name: str, chunks: list[Chunk]) -> Tensor:
    """Return the manifest's entry of one name in the state dict."""
    stored = metadata.state_dict_metadata[name]
    if isinstance(stored, TensorStorageMetadata):
        return Tensor(_dtype_name(stored.properties), tuple(stored.size), tuple(chunks))
    return Tensor(None, (), tuple(chunks))


def _chunk_sizes(metadata: Metadata) -> dict[tuple[str, tuple[int, ...]], tuple[int, ...]]:
    return {
        (name, tuple(chunk.offsets)): tuple(chunk.sizes)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
        for chunk in entry.chunks
    }
