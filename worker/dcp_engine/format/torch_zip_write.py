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
_MOST_COUNTED: Final = 0xFFFF
"""Members from which the end that is not zip64's can't count them."""
_UTF8: Final = 0x800
_STREAMED: Final = 0x8
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
class ZipMember:
    """One stored member: where its local header begins, and what the directory says of it."""

    name: bytes
    size: int
    crc: int
    offset: int
    streamed: bool = False
    """Its CRC-32 follows its bytes, since they were on their way before anybody knew it."""

    @property
    def wide(self) -> bool:
        """Tell whether its numbers need the fields for large ones."""
        return self.size >= _LIMIT or self.offset >= _LIMIT

    @property
    def flags(self) -> int:
        """Return what its headers say of how it is stored."""
        return _UTF8 | (_STREAMED if self.streamed else 0)


class _Storage:
    """Stands for the tensor's storage while its pickle is written."""

    def __init__(self, kind: type, key: str, numel: int) -> None:
        self.key = ("storage", kind, key, "cpu", numel)


class PickledTensor:
    """Pickles as a contiguous CPU tensor would, whose storage has a key of its own in the container."""

    def __init__(self, dtype: torch.dtype, shape: torch.Size, key: str = "0") -> None:
        self.dtype = dtype
        self.shape = shape
        self.key = key

    @property
    def size(self) -> int:
        """Return the bytes of its values."""
        return self.shape.numel() * self.dtype.itemsize

    def __reduce__(self) -> tuple[Any, ...]:
        stride = _contiguous_stride(self.shape)
        arguments: tuple[Any, ...]
        if self.dtype in torch_internals.types_without_storage():
            storage = _Storage(torch.UntypedStorage, self.key, self.size)
            arguments = (storage, 0, tuple(self.shape), stride, False, OrderedDict(), self.dtype)
            return torch_internals.REBUILD_TENSOR_OF_TYPE, arguments
        storage = _Storage(_storage_type(self.dtype), self.key, self.shape.numel())
        arguments = (storage, 0, tuple(self.shape), stride, False, OrderedDict())
        return torch_internals.REBUILD_TENSOR, arguments


class TensorPickler(pickle.Pickler):
    """Pickles as torch does: of a storage no more than its key."""

    def persistent_id(self, obj: Any) -> Any:  # noqa: ANN401 - pickle's own signature
        """Return the key of a storage; None for all else."""
        return obj.key if isinstance(obj, _Storage) else None


@lru_cache(1024)
def frame(dtype: torch.dtype, shape: torch.Size) -> Frame:
    """Return the bytes around the payload of a contiguous tensor; a model has few shapes, each of them often."""
    head = bytearray()
    members: list[ZipMember] = []
    pickled = io.BytesIO()
    TensorPickler(pickled, protocol=2).dump(PickledTensor(dtype, shape))
    opening(head, members, pickled.getvalue())
    payload = shape.numel() * dtype.itemsize
    member = ZipMember(b"archive/data/0", payload, 0, len(head))
    members.append(member)
    head += local_header(member)
    base = len(head) + payload
    return Frame(bytes(head), closing(members, base))


def opening(head: bytearray, members: list[ZipMember], pickled: bytes) -> None:
    """Append what stands before the storages."""
    for name, data in (
        ("data.pkl", pickled),
        (".format_version", b"1"),
        (".storage_alignment", b"64"),
        ("byteorder", b"little"),
    ):
        append(head, members, name, data, base=0)


def closing(members: list[ZipMember], base: int) -> bytes:
    """Return what stands behind the storages, which end at byte `base`."""
    tail = bytearray()
    every = list(members)
    append(tail, every, "version", b"3\n", base=base)
    return bytes(tail + directory(every, base + len(tail)))


def descriptor(member: ZipMember) -> bytes:
    """Return what follows the bytes of a streamed member: its CRC-32, which its local header lacks."""
    return struct.pack("<4sI2Q" if member.wide else "<4s3I", b"PK\x07\x08", member.crc, member.size, member.size)


def append(out: bytearray, members: list[ZipMember], name: str, data: bytes, *, base: int) -> None:
    """Append a small member; `out` begins at byte `base` of the container."""
    member = ZipMember(f"archive/{name}".encode(), len(data), zlib.crc32(data), base + len(out))
    members.append(member)
    out += local_header(member)
    out += data


def local_header(member: ZipMember) -> bytes:
    """Return a local file header, padded by an extra field (`FB`, as torch names it) so that the data are aligned."""
    wide = struct.pack("<2H2Q", 1, 16, member.size, member.size) if member.wide else b""
    start = member.offset + _LOCAL.size + len(member.name) + len(wide) + 4
    padding = -start % _ALIGNMENT
    extra = wide + struct.pack("<2s1H", b"FB", padding) + b"Z" * padding
    size = _LIMIT if member.wide else member.size
    lengths = (0 if member.streamed else member.crc, size, size, len(member.name), len(extra))
    return _LOCAL.pack(b"PK\x03\x04", 0, member.flags, 0, 0, 0, *lengths) + member.name + extra


def directory(members: list[ZipMember], start: int) -> bytes:
    """Return the central directory and its end records; the zip64 ones where a number needs them."""
    out = bytearray()
    for member in members:
        extra = struct.pack("<2H3Q", 1, 24, member.size, member.size, member.offset) if member.wide else b""
        size = _LIMIT if member.wide else member.size
        offset = _LIMIT if member.wide else member.offset
        lengths = (member.crc, size, size, len(member.name), len(extra))
        out += _CENTRAL.pack(b"PK\x01\x02", 0, 0, member.flags, 0, 0, 0, *lengths, 0, 0, 0, 0, offset)
        out += member.name + extra
    length, count = len(out), len(members)
    if start >= _LIMIT or count >= _MOST_COUNTED or any(member.wide for member in members):
        end = start + length
        out += _END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, length, start)
        out += _LOCATOR.pack(b"PK\x06\x07", 0, end, 1)
    counted = min(count, _MOST_COUNTED)
    out += _END.pack(b"PK\x05\x06", 0, 0, counted, counted, length, min(start, _LIMIT), 0)
    return bytes(out)


def _contiguous_stride(shape: torch.Size) -> tuple[int, ...]:
    stride, step = [], 1
    for length in reversed(shape):
        stride.append(step)
        step *= max(length, 1)
    return tuple(reversed(stride))


def _storage_type(dtype: torch.dtype) -> type:
    return getattr(torch, torch_internals.storage_names()[dtype])  # type: ignore[no-any-return]
