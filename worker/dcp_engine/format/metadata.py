"""DCP's Metadata: pickled for stock readers, whom our trailer behind it does not disturb, and made from a manifest.

Nothing here unpickles: what DCP's planners are given is what the manifest says.
"""

import copyreg
import hashlib
import io
import pickle
from collections.abc import Iterator, Mapping, Sequence
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

from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format.manifest import Chunk, Manifest, Tensor
from dcp_engine.format.metadata_build import Written
from dcp_engine.gc_pause import uncollected
from dcp_engine.torch_internals import StorageInfo

_PROPERTIES: Final = 5
"""What every torch keeps of a tensor's properties. Since 2.15 there are strides, too, on which earlier ones choke."""


def digest_of(pickled: bytes) -> str:
    """Return the digest of the pickle, which the manifest carries."""
    return hashlib.sha256(pickled).hexdigest()


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
