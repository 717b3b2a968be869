"""What a checkpoint holds, as JSON that needs neither pickle nor torch.

Chunks are arrays, not objects: at a thousand ranks there are millions of them. Pure: no IO.
"""

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Final, NamedTuple, Self, overload

from dcp_worker.contract import CheckpointInfo, Origin

FORMAT: Final = 1
_CHUNKS: Final = re.compile(r'"chunks":\s*(\[[^"{}]*\])')
"""Of one tensor. It can't be part of a name, where the quotes would have backslashes before them."""


@dataclass(frozen=True)
class DataFile:
    """One data file: its path below the URL, bytes, crc32c, and its first block's place among all block digests."""

    path: str
    size: int
    crc32c: int | None = None
    first_block: int = 0


class Chunk(NamedTuple):
    """A box of a tensor and where it lies: `length` bytes at `offset` of `files[file]`, the payload at `payload`.

    `payload` counts from `offset` and is None where the bytes are not simply the chunk's values in row-major order.
    """

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    file: int
    offset: int
    length: int
    payload: int | None


class Chunks(Sequence[Chunk]):
    """Chunks as they stand in the JSON, taken apart when they are first looked at, as those of few tensors are."""

    def __init__(self, text: str) -> None:
        self.text = text

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> "Chunks":
        """Return any chunks as these."""
        return chunks if isinstance(chunks, cls) else cls(_json(chunks))

    @cached_property
    def _arrays(self) -> list[Any]:
        return json.loads(self.text)  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self._arrays)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        offsets, sizes, *rest = self._arrays[index]
        return Chunk(tuple(offsets), tuple(sizes), *rest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment] # compared by value, never a key


@dataclass(frozen=True)
class Tensor:
    """One entry of the state dict; `dtype` is None for an object that is no tensor (BYTE_IO)."""

    dtype: str | None
    shape: tuple[int, ...]
    chunks: Sequence[Chunk]


@dataclass(frozen=True)
class Manifest:
    """Everything about one save but its bytes."""

    save_id: str = ""
    url: str = ""
    origin: Origin | None = None
    step: int | None = None
    world_size: int | None = None
    torch_version: str = ""
    created_time: datetime | None = None
    conflict_guard: str = ""
    metadata_sha256: str = ""
    """Of the pickle in `.metadata`, without the trailer, which names this manifest in turn."""
    block_size: int = 0
    files: tuple[DataFile, ...] = ()
    tensors: Mapping[str, Tensor] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Return the JSON of manifest.json."""
        document = {
            "format": FORMAT,
            "saveId": self.save_id,
            "origin": self.origin.to_dict() if self.origin else None,
            "step": self.step,
            "worldSize": self.world_size,
            "torchVersion": self.torch_version,
            "createdTime": self.created_time.isoformat() if self.created_time else None,
            "conflictGuard": self.conflict_guard,
            "metadataSha256": self.metadata_sha256,
            "blockSize": self.block_size,
            "files": [
                {"path": file.path, "size": file.size, "crc32c": file.crc32c, "firstBlock": file.first_block}
                for file in self.files
            ],
        }
        # What is large is JSON already: it is neither taken apart nor put together again.
        tensors = ",".join(
            f'{_json(name)}:{{"dtype":{_json(tensor.dtype)},"shape":{_json(tensor.shape)},'
            f'"chunks":{Chunks.of(tensor.chunks).text}}}'
            for name, tensor in self.tensors.items()
        )
        return f'{_json(document)[:-1]},"tensors":{{{tensors}}}}}'.encode()

    @classmethod
    def decode(cls, data: bytes, url: str = "") -> Self:
        """Return the manifest in manifest.json; raise ValueError for anything else."""
        try:
            chunks: list[Chunks] = []
            document = json.loads(_CHUNKS.sub(lambda found: _set_aside(found[1], chunks), data.decode()))
            return cls._from(document, chunks, url)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error

    @classmethod
    def _from(cls, document: dict[str, Any], chunks: Sequence[Chunks], url: str) -> Self:
        if document["format"] != FORMAT:
            raise ValueError(f"manifest format {document['format']} is not {FORMAT}; use a newer dcp-operator")
        created = document["createdTime"]
        return cls(
            save_id=document["saveId"],
            url=url,
            origin=Origin.model_validate(document["origin"]) if document["origin"] else None,
            step=document["step"],
            world_size=document["worldSize"],
            torch_version=document["torchVersion"],
            created_time=datetime.fromisoformat(created) if created else None,
            conflict_guard=document["conflictGuard"],
            metadata_sha256=document["metadataSha256"],
            block_size=document["blockSize"],
            files=tuple(
                DataFile(file["path"], file["size"], file["crc32c"], file["firstBlock"]) for file in document["files"]
            ),
            tensors={
                name: Tensor(entry["dtype"], tuple(entry["shape"]), chunks[entry["chunks"]])
                for name, entry in document["tensors"].items()
            },
        )

    def info(self, digest: str = "") -> CheckpointInfo:
        """Return the summary that goes into a status."""
        return CheckpointInfo(
            url=self.url,
            save_id=self.save_id,
            step=self.step,
            bytes=sum(file.size for file in self.files),
            files=len(self.files),
            tensors=sum(tensor.dtype is not None for tensor in self.tensors.values()),
            world_size=self.world_size,
            torch_version=self.torch_version,
            manifest_digest=f"sha256:{digest}" if digest else "",
            created_time=self.created_time,
            origin=self.origin,
            conflict_guard=self.conflict_guard,
        )

    def tensors_by_file(self) -> dict[str, list[str]]:
        """Return file path -> names of what lies in it."""
        names: dict[str, list[str]] = defaultdict(list)
        for name, tensor in self.tensors.items():
            for number in sorted({chunk.file for chunk in tensor.chunks}):
                names[self.files[number].path].append(name)
        return dict(names)

    def tensors_in(self, path: str, start: int, stop: int) -> list[str]:
        """Return the names of what lies in a range of a file."""
        return [
            name
            for name, tensor in self.tensors.items()
            if any(
                self.files[chunk.file].path == path and chunk.offset < stop and start < chunk.offset + chunk.length
                for chunk in tensor.chunks
            )
        ]


def _set_aside(text: str, chunks: list[Chunks]) -> str:
    """Keep a tensor's chunks for later; their number stands for them in the JSON that is taken apart now."""
    chunks.append(Chunks(text))
    return f'"chunks":{len(chunks) - 1}'


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
