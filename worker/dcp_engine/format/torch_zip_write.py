"""A tensor in the container that `torch.save` writes and `torch.load` reads, framed without touching its payload.

The container is a zip of stored members (torch's caffe2/serialize/inline_container.cc, file format version 3):
`archive/data.pkl` says how to rebuild the tensor, `archive/data/0` is its storage, aligned to 64 bytes. `head` and
`tail` surround the payload, so a shard streams from its own memory. The zip's CRC-32 of the payload is written as 0, as
torch does under `set_crc32_options(False)`: torch never looks at it, and the block digests cover the payload.
"""

import io
import pickle
import struct
import zlib
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import torch

from dcp_engine import torch_internals

_ALIGNMENT: Final = 64
_LIMIT: Final = 0xFFFFFFFF
_UTF8: Final = 0x800
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")


@dataclass(frozen=True)
class Frame:
    """What stands before and after a tensor's payload in its container."""

    head: bytes
    tail: bytes


@dataclass(frozen=True)
class _ZipMember:
    name: bytes
    size: int
    crc: int
    offset: int

    @property
    def wide(self) -> bool:
        return self.size >= _LIMIT or self.offset >= _LIMIT


class _Storage:
    """Stands for the tensor's storage while its pickle is written."""

    def __init__(self, kind: type, numel: int) -> None:
        self.key = ("storage", kind, "0", "cpu", numel)


class _PickledTensor:
    """Pickles as a contiguous CPU tensor would."""

    def __init__(self, dtype: torch.dtype, shape: torch.Size) -> None:
        self.dtype = dtype
        self.shape = shape

    def __reduce__(self) -> tuple[Any, ...]:
        stride = _contiguous_stride(self.shape)
        arguments: tuple[Any, ...]
        if self.dtype in torch_internals.types_without_storage():
            storage = _Storage(torch.UntypedStorage, self.shape.numel() * self.dtype.itemsize)
            arguments = (storage, 0, tuple(self.shape), stride, False, OrderedDict(), self.dtype)
            return torch_internals.REBUILD_TENSOR_OF_TYPE, arguments
        storage = _Storage(_storage_type(self.dtype), self.shape.numel())
        arguments = (storage, 0, tuple(self.shape), stride, False, OrderedDict())
        return torch_internals.REBUILD_TENSOR, arguments


class _TensorPickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:  # noqa: ANN401 - pickle's own signature
        return obj.key if isinstance(obj, _Storage) else None


@lru_cache(1024)
def frame(dtype: torch.dtype, shape: torch.Size) -> Frame:
    """Return the bytes around the payload of a contiguous tensor; a model has few shapes, each of them often."""
    head = bytearray()
    members: list[_ZipMember] = []
    pickled = io.BytesIO()
    _TensorPickler(pickled, protocol=2).dump(_PickledTensor(dtype, shape))
    for name, data in (
        ("data.pkl", pickled.getvalue()),
        (".format_version", b"1"),
        (".storage_alignment", b"64"),
        ("byteorder", b"little"),
    ):
        _append(head, members, name, data, base=0)
    payload = shape.numel() * dtype.itemsize
    member = _ZipMember(b"archive/data/0", payload, 0, len(head))
    members.append(member)
    head += _local_header(member)
    base = len(head) + payload
    tail = bytearray()
    _append(tail, members, "version", b"3\n", base=base)
    tail += _directory(members, base + len(tail))
    return Frame(bytes(head), bytes(tail))


def _append(out: bytearray, members: list[_ZipMember], name: str, data: bytes, *, base: int) -> None:
    member = _ZipMember(f"archive/{name}".encode(), len(data), zlib.crc32(data), base + len(out))
    members.append(member)
    out += _local_header(member)
    out += data


def _local_header(member: _ZipMember) -> bytes:
    """Return a local file header, padded by an extra field (`FB`, as torch names it) so that the data are aligned."""
    wide = struct.pack("<2H2Q", 1, 16, member.size, member.size) if member.wide else b""
    start = member.offset + _LOCAL.size + len(member.name) + len(wide) + 4
    padding = -start % _ALIGNMENT
    extra = wide + struct.pack("<2s1H", b"FB", padding) + b"Z" * padding
    size = _LIMIT if member.wide else member.size
    lengths = (member.crc, size, size, len(member.name), len(extra))
    return _LOCAL.pack(b"PK\x03\x04", 0, _UTF8, 0, 0, 0, *lengths) + member.name + extra


def _directory(members: list[_ZipMember], start: int) -> bytes:
    """Return the central directory and its end records; the zip64 ones where an offset or size needs them."""
    out = bytearray()
    for member in members:
        extra = struct.pack("<2H3Q", 1, 24, member.size, member.size, member.offset) if member.wide else b""
        size = _LIMIT if member.wide else member.size
        offset = _LIMIT if member.wide else member.offset
        lengths = (member.crc, size, size, len(member.name), len(extra))
        out += _CENTRAL.pack(b"PK\x01\x02", 0, 0, _UTF8, 0, 0, 0, *lengths, 0, 0, 0, 0, offset)
        out += member.name + extra
    length, count = len(out), len(members)
    if start >= _LIMIT or any(member.wide for member in members):
        end = start + length
        out += _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, length, start)
        out += _LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
    out += _END.pack(b"PK\x05\x06", 0, 0, count, count, length, min(start, _LIMIT), 0)
    return bytes(out)


def _contiguous_stride(shape: torch.Size) -> tuple[int, ...]:
    stride, step = [], 1
    for length in reversed(shape):
        stride.append(step)
        step *= max(length, 1)
    return tuple(reversed(stride))


def _storage_type(dtype: torch.dtype) -> type:
    return getattr(torch, torch_internals.storage_names()[dtype])  # type: ignore[no-any-return]
