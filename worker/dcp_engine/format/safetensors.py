"""Safetensors as Hugging Face lays a model out: the header of a file, the names of shards, and the index of them all.

A file is the header's length (8 bytes, little-endian), the header (JSON), and the tensors' bytes, row-major and without
gaps (github.com/huggingface/safetensors, "Format"). A folder's index says which file holds which tensor; it may name
any file. So an export names its shards by its own id, and the one write of the index makes them the folder's model.
Pure.
"""

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from math import prod
from typing import Any, Final, NamedTuple, Self

from dcp_contract.checkpoint_info import Origin

INDEX: Final = "model.safetensors.index.json"
SINGLE: Final = "model.safetensors"
"""A model in one file. Readers look for it before they look for an index."""
LONGEST_HEADER: Final = 100_000_000
"""Bytes of a header that the library reads at most."""
_LENGTH: Final = struct.Struct("<Q")
_ALIGNMENT: Final = 8
_METADATA: Final = "__metadata__"
_FULL_HEADER: Final = LONGEST_HEADER // 2
"""Bytes of a header after which the next file begins, however small its tensors are."""
_FIELD_BYTES: Final = 100
"""Most bytes of a tensor in a header beside its name and its shape: the type, two offsets, and what is between them."""
_SHARD: Final = re.compile(r"model-([0-9a-f]{32})-\d{5,}-of-\d{5,}\.safetensors")
_OURS: Final = "dcpOperator"
CODES: Final[Mapping[str, str]] = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
    "bool": "BOOL", "complex64": "C64",
}  # fmt: skip
"""torch's types -> their codes in a header. What is not here can't be stored."""
BYTES: Final[Mapping[str, int]] = {
    name: 1 if name == "bool" or "float8" in name else int("".join(filter(str.isdigit, name))) // 8 for name in CODES
}
"""torch's types -> bytes of one element."""
NAMES: Final[Mapping[str, str]] = {code: name for name, code in CODES.items()}
"""The codes of a header -> torch's types."""


class StoredTensor(NamedTuple):
    """One tensor as a file holds it."""

    name: str
    dtype: str
    """torch's type, without `torch.`."""
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Return its bytes."""
        return prod(self.shape) * BYTES[self.dtype]


def may_be_named(name: str) -> bool:
    """Tell whether a tensor may have a name: one is taken in each header, and readers want Unicode."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return name != _METADATA


def in_file_order(entries: Iterable[StoredTensor]) -> list[StoredTensor]:
    """Return entries as they follow one another in a file: wide types first, so that each value is aligned."""
    return sorted(entries, key=lambda entry: (-BYTES[entry.dtype], entry.name))


def header(entries: Sequence[StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """Return what stands before the tensors' bytes, which follow in the order of the entries."""
    fields: dict[str, Any] = {_METADATA: dict(metadata)}
    at = 0
    for entry in entries:
        end = at + entry.size
        fields[entry.name] = {"dtype": CODES[entry.dtype], "shape": entry.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(fields, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return _LENGTH.pack(len(text)) + text


def shards(entries: Iterable[StoredTensor], limit: int, header_limit: int = _FULL_HEADER) -> list[list[StoredTensor]]:
    """Spread entries over files of at most `limit` bytes of values, or of one entry that is larger; at least one file.

    Entries stay in their order from file to file: layers that follow one another lie together. No file gets a header
    that readers refuse for its length.
    """
    found: list[list[StoredTensor]] = [[]]
    size = named = 0
    for entry in entries:
        words = len(json.dumps((entry.name, entry.shape))) + _FIELD_BYTES
        if found[-1] and (size + entry.size > limit or named + words > header_limit):
            found.append([])
            size = named = 0
        found[-1].append(entry)
        size += entry.size
        named += words
    return [in_file_order(shard) for shard in found]


def shard_name(export_id: str, number: int, count: int) -> str:
    """Return the name of an export's n-th file, counted from 1 as Hugging Face does."""
    return f"model-{export_id}-{number:05}-of-{count:05}.safetensors"


def export_of(path: str) -> str:
    """Return the id of the export that a file has the name of; empty for any other file."""
    found = _SHARD.fullmatch(path)
    return found[1] if found else ""


@dataclass(frozen=True, kw_only=True)
class ModelIndex:
    """Which file holds which tensor, and which export wrote them."""

    files: Mapping[str, str]
    """Name of a tensor -> the file that holds it."""
    total_size: int = 0
    """Bytes of all values."""
    export_id: str = ""
    """Empty where another program wrote the index."""
    source: Mapping[str, Any] = field(default_factory=dict)
    """The checkpoint that was exported: `url`, `saveId`, `step`."""
    origin: Origin | None = None
    created_time: datetime | None = None
    replaced: tuple[str, ...] = ()
    """Earlier exports whose files may still be there, for those who read them."""

    def encode(self) -> bytes:
        """Return the JSON. Readers keep what they do not know of `metadata`, and look at no more than `total_size`."""
        ours = {
            "exportId": self.export_id,
            "source": dict(self.source),
            "origin": self.origin.bare().to_dict() if self.origin else None,
            "createdTime": self.created_time.isoformat() if self.created_time else None,
            "replaced": list(self.replaced),
        }
        document = {"metadata": {"total_size": self.total_size, _OURS: ours}, "weight_map": dict(self.files)}
        return f"{json.dumps(document, indent=2)}\n".encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return what an index says.

        Raises:
            ValueError: It is none, and says why.
        """
        try:
            document = json.loads(data)
            files = document["weight_map"]
            metadata = document.get("metadata") or {}
            ours = metadata.get(_OURS) or {}
            if not all(isinstance(file, str) for file in files.values()):
                raise ValueError("a file's name in it is no text")
            created = ours.get("createdTime")
            return cls(
                files=files,
                total_size=int(metadata.get("total_size") or 0),
                export_id=str(ours.get("exportId", "")),
                source=dict(ours.get("source") or {}),
                origin=Origin.model_validate(ours["origin"]) if ours.get("origin") else None,
                created_time=datetime.fromisoformat(created) if created else None,
                replaced=tuple(map(str, ours.get("replaced", ()))),
            )
        except (LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
            raise ValueError(f"not an index of safetensors: {error!r}") from error


def header_length(data: bytes) -> int:
    """Return how many bytes a file's first 8 bytes say that its header has.

    Raises:
        ValueError: No reader takes so many, or the file has no 8 bytes.
    """
    if len(data) < _LENGTH.size:
        raise ValueError("is too short for a file of safetensors")
    (length,) = _LENGTH.unpack_from(data)
    if not 0 < length <= LONGEST_HEADER:
        raise ValueError("does not begin as a file of safetensors does")
    return int(length)


def parse_header(data: bytes, room: int) -> dict[str, tuple[StoredTensor, int]]:
    """Return the tensors that a header names, each with its place behind the header, in bytes.

    Args:
        data: The header without its length.
        room: Bytes of the file behind the header.

    Raises:
        ValueError: It is none, or names bytes that are not there, or of which two tensors share some.
    """
    try:
        found: dict[str, tuple[StoredTensor, int]] = {}
        fields = json.loads(data)
        fields.pop(_METADATA, None)
        for name, each in fields.items():
            shape = tuple(each["shape"])
            start, end = each["data_offsets"]
            if each["dtype"] not in NAMES:
                raise ValueError(f"{name} is of the type {each['dtype']}, which torch does not have")
            if not all(isinstance(size, int) and 0 <= size < 1 << 62 for size in (*shape, start, end)):
                raise ValueError(f"{name} has sizes that can't be")
            entry = StoredTensor(name, NAMES[each["dtype"]], shape)
            if end - start != entry.size or end > room:
                raise ValueError(f"{name} does not lie in it whole")
            found[name] = entry, start
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"not a header of safetensors: {error!r}") from error
    at = 0
    for entry, start in sorted(found.values(), key=lambda each: (each[1], each[0].size)):
        if start < at:
            raise ValueError(f"{entry.name} shares bytes with another tensor")
        at = start + entry.size
    return found
