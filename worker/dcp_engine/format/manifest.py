"""What a checkpoint holds, as JSON that needs neither pickle nor torch.

Chunks are arrays, not objects: at a thousand ranks there are millions of them. Anybody may have written the JSON: what
is taken from it is checked when it is taken. Pure: no IO.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from math import prod
from typing import Any, Final, NamedTuple, Self, overload

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import layout, provenance
from dcp_engine.gc_pause import uncollected

FORMAT: Final = 1
UNKNOWN: Final = -1
"""Stands for a file size that is not known: a stock `.metadata` does not say how large its files are."""
_CHUNKS: Final = re.compile(r'"chunks":\s*(\[[^"{}]*\])')
"""The chunks of one tensor. No name can contain this text: in a JSON string its quotes would have backslashes."""
_DTYPE: Final = re.compile(r"[a-z][a-z0-9_]*")
_MOST: Final = 1 << 62
"""The largest number of bytes or elements that is believed. Sums of a few such numbers still fit an off_t."""
_DIMENSIONS: Final = 64
_OVERHEAD: Final = 64 << 20
_WIDEST: Final = 128
"""Most bytes that a part of a tensor may take for each of its elements, beyond `_OVERHEAD`. A tensor that wraps other
tensors may hold more bytes than values of its own type would take. Without a limit a file with a hole could declare
any number of bytes, and all of them are read before one is decoded."""
_BRACKET_EACH: Final = 12
_CHUNK_BRACKET_EACH: Final = 6
"""Fewest characters per bracket that the engine writes. JSON of brackets alone takes 30 times its length in memory."""


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


class Bounds(NamedTuple):
    """What the chunks of one entry must keep within: the entry's shape, and the sizes of the files."""

    source: str
    name: str
    shape: tuple[int, ...]
    sizes: Sequence[int]
    is_object: bool = False
    """Whether it is no tensor: then nothing says how many bytes it may have."""

    def check(self, entry: Any) -> None:  # noqa: ANN401 - whatever stands in the JSON
        """Refuse what is no chunk, or one that lies outside of its tensor or its file.

        Raises:
            ValueError or TypeError: it does.
        """
        offsets, sizes, file, offset, length, payload = entry
        for at, size, limit in zip(offsets, sizes, self.shape, strict=True):
            if _count(at) + _count(size) > limit:
                raise ValueError("a part of it lies outside of it")
        size = self.sizes[_count(file)] if _count(file) < len(self.sizes) else 0
        if _count(offset) + _count(length) > (_MOST if size == UNKNOWN else size):
            raise ValueError("a part of it lies outside of its file")
        if not self.is_object and length > _OVERHEAD + _WIDEST * prod(sizes):
            raise ValueError("a part of it has far more bytes than values")
        if payload is not None and _count(payload) > length:
            raise ValueError("a part of it begins behind its end")


class Chunks(Sequence[Chunk]):
    """Chunks as they stand in the JSON, taken apart when they are first looked at, as those of few tensors are.

    Raises CheckpointCorrupted then, if they are not within the `bounds`.
    """

    def __init__(self, text: str, bounds: Bounds | None = None) -> None:
        self.text = text
        self._bounds = bounds

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> "Chunks":
        """Return any chunks as these."""
        return chunks if isinstance(chunks, cls) else cls(_json(chunks))

    @cached_property
    def _arrays(self) -> list[Any]:
        if self._bounds is None or self.text == "[]":
            return json.loads(self.text)  # type: ignore[no-any-return]
        try:
            _bear(self.text, _CHUNK_BRACKET_EACH)
            arrays: list[Any] = json.loads(self.text)
            for entry in arrays:
                self._bounds.check(entry)
        except (TypeError, ValueError, RecursionError) as error:
            detail = f"{self._bounds.name} is not as it can be: {error}"
            raise CheckpointCorrupted(self._bounds.source, detail, [self._bounds.name]) from error
        return arrays

    def __len__(self) -> int:
        return len(self._arrays)

    @overload
    def __getitem__(self, index: int) -> Chunk: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Chunk]: ...
    def __getitem__(self, index: int | slice) -> Chunk | Sequence[Chunk]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        return _chunk(*self._arrays[index])

    def __iter__(self) -> Iterator[Chunk]:
        for array in self._arrays:
            yield _chunk(*array)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment] # compared by value, never a key


@dataclass(frozen=True)
class Tensor:
    """One entry of the state dict; `dtype` is None for an object that is no tensor (BYTE_IO)."""

    dtype: str | None
    shape: tuple[int, ...]
    chunks: Sequence[Chunk]
    path: tuple[str | int, ...] = ()
    """Where it stood in the nested state dict; empty if its name is all there is to that."""
    transformed: bool = False
    """Whether a stock writer passed it through stream extensions."""


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
            **provenance.encoded(self.origin),
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
            f'"chunks":{Chunks.of(tensor.chunks).text}{_path(tensor.path)}}}'
            for name, tensor in self.tensors.items()
        )
        return f'{_json(document)[:-1]},"tensors":{{{tensors}}}}}'.encode()

    @classmethod
    def decode(cls, data: bytes, url: str = "", *, save_id: str = "") -> Self:
        """Return the manifest in manifest.json of one save; without its id, what was made of a stock `.metadata`.

        Raises:
            ValueError: it is anything else, and says what.
        """
        try:
            chunks: list[str] = []
            with uncollected():
                text = _CHUNKS.sub(lambda found: _set_aside(found[1], chunks), data.decode())
                _bear(text, _BRACKET_EACH)
                return cls._from(json.loads(text), chunks, url, save_id)
        except (LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"not a manifest: {error!r}") from error

    @classmethod
    def _from(cls, document: dict[str, Any], chunks: Sequence[str], url: str, save_id: str) -> Self:
        if document["format"] != FORMAT:
            raise ValueError(f"manifest format {document['format']} is not {FORMAT}; use a newer dcp-operator")
        if document["saveId"] != save_id:
            raise ValueError(f"the manifest is of save {document['saveId']!r}, not of {save_id!r}")
        if save_id and document["blockSize"] != layout.BLOCK:
            raise ValueError(
                f"blockSize {document['blockSize']!r} is not the {layout.BLOCK} known here; use a newer dcp-operator"
            )
        created = document["createdTime"]
        files = tuple(_files(document["files"], save_id))
        sizes = [file.size for file in files]
        source = layout.manifest_path(save_id) if save_id else layout.METADATA
        return cls(
            save_id=save_id,
            url=url,
            origin=provenance.decoded(document),
            step=None if document["step"] is None else _number(document["step"]),
            world_size=None if document["worldSize"] is None else _count(document["worldSize"]),
            torch_version=_text(document["torchVersion"]),
            created_time=datetime.fromisoformat(created) if created else None,
            conflict_guard=_text(document["conflictGuard"]),
            metadata_sha256=_text(document["metadataSha256"]),
            block_size=_count(document["blockSize"]),
            files=files,
            tensors={
                name: _tensor(
                    entry, chunks, Bounds(source, name, _shape(entry["shape"]), sizes, entry["dtype"] is None)
                )
                for name, entry in document["tensors"].items()
            },
        )

    def check(self) -> None:
        """Look at every chunk, which is else done when it is needed.

        Raises:
            CheckpointCorrupted: one is none, or lies outside of its tensor or file.
        """
        with uncollected():
            for tensor in self.tensors.values():
                len(tensor.chunks)

    @property
    def source(self) -> str:
        """Return the file that the manifest was read from."""
        return layout.manifest_path(self.save_id) if self.save_id else layout.METADATA

    def chunk(self, name: str, offsets: tuple[int, ...]) -> Chunk:
        """Return the chunk of an entry that begins there; an object has one, at ().

        Raises:
            KeyError: there is none.
        """
        return self._by_offsets(name)[offsets]

    def _by_offsets(self, name: str) -> dict[tuple[int, ...], Chunk]:
        if name not in self._looked_up:
            self._looked_up[name] = {chunk.offsets: chunk for chunk in self.tensors[name].chunks}
        return self._looked_up[name]

    @cached_property
    def _looked_up(self) -> dict[str, dict[tuple[int, ...], Chunk]]:
        return {}

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


def need_apart(chunks: Iterable[tuple[str, Chunk]], files: Sequence[DataFile]) -> None:
    """Refuse entries that share bytes, or end behind their file: a small file would stand for any amount of them.

    Raises:
        CheckpointCorrupted: names the file and the entry.
    """
    before, end = -1, 0
    for number, offset, length, name in sorted({(at.file, at.offset, at.length, name) for name, at in chunks}):
        file = files[number]
        if offset + length > file.size:
            found = "is missing" if file.size < 0 else f"has {file.size} bytes, but {name} ends at {offset + length}"
            raise CheckpointCorrupted(file.path, found, [name])
        if length and number == before and offset < end:
            raise CheckpointCorrupted(file.path, f"{name} shares bytes with another entry", [name])
        before, end = number, offset + length


def _files(entries: Sequence[Any], save_id: str) -> Iterator[DataFile]:
    """Give the files, each of which is one that the save may have, and has its blocks behind those of the one before.

    Raises:
        ValueError: one is something else.
    """
    block = 0
    seen = set()
    for entry in entries:
        path = _text(entry["path"])
        own = layout.is_data_file(path, save_id) if save_id else layout.may_be_stock(path)
        if not own or path in seen:
            raise ValueError(f"{path!r} is no data file of this checkpoint, or is named twice")
        seen.add(path)
        if not save_id:
            yield DataFile(path, UNKNOWN)
            continue
        if _count(entry["firstBlock"]) != block:
            raise ValueError(f"the digests of {path} do not follow those of the file before")
        yield DataFile(path, _count(entry["size"]), _count(entry["crc32c"]), block)
        block += -(-entry["size"] // layout.BLOCK)


def _tensor(entry: dict[str, Any], chunks: Sequence[str], bounds: Bounds) -> Tensor:
    dtype = entry["dtype"]
    if dtype is not None and not _DTYPE.fullmatch(_text(dtype)):
        raise ValueError(f"{dtype!r} is no dtype")
    path = entry.get("path", [])
    if type(path) is not list or not all(type(key) in {str, int} for key in path):
        raise ValueError(f"{bounds.name} has no path where one should be")
    text = chunks[_count(entry["chunks"])]
    return Tensor(dtype, bounds.shape, Chunks(text, bounds), tuple(path), entry.get("transformed") is True)


def _shape(sizes: Any) -> tuple[int, ...]:  # noqa: ANN401 - whatever stands in the JSON
    if type(sizes) is not list or len(sizes) > _DIMENSIONS:
        raise ValueError(f"not a shape of at most {_DIMENSIONS} dimensions")
    shape = tuple(map(_count, sizes))
    if prod(shape) > _MOST:
        raise ValueError(f"no tensor has {' x '.join(map(str, shape))} elements")
    return shape


def _count(value: Any) -> int:  # noqa: ANN401 - whatever stands in the JSON
    if type(value) is int and 0 <= value <= _MOST:
        return value
    raise ValueError(f"{_number(value)} is negative")


def _number(value: Any) -> int:  # noqa: ANN401 - whatever stands in the JSON
    if type(value) is not int or abs(value) > _MOST:
        raise ValueError(f"{str(value)[:40]} is no number of bytes, elements or ranks")
    return value


def _text(value: Any) -> str:  # noqa: ANN401 - whatever stands in the JSON
    if type(value) is not str:
        raise TypeError(f"{str(value)[:40]} is no text")
    return value


def _bear(text: str, each: int) -> None:
    """Refuse JSON that has more arrays and objects than any manifest of its length: they take memory beyond it."""
    if text.count("[") + text.count("{") > len(text) // each + 64:
        raise ValueError("it nests more than a manifest does")


def _chunk(offsets: list[int], sizes: list[int], file: int, offset: int, length: int, payload: int | None) -> Chunk:
    return Chunk(tuple(offsets), tuple(sizes), file, offset, length, payload)


def _set_aside(text: str, chunks: list[str]) -> str:
    """Keep a tensor's chunks for later; their number stands for them in the JSON that is taken apart now."""
    chunks.append(text)
    return f'"chunks":{len(chunks) - 1}'


def _path(path: tuple[str | int, ...]) -> str:
    return f',"path":{_json(path)}' if path else ""


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
