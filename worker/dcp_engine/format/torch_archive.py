"""A file of `torch.save` whose tensors' bytes come one after the other: all that it takes but those bytes.

A zip of stored members, as `torch_zip_write` frames one tensor. The pickle stands first, and each storage is aligned to
64 bytes. The CRC-32 of a storage is known once it has passed: it follows the bytes, and stands in the directory, so
that any reader of zips can compare it.
"""

import io
import zlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

import torch

from dcp_engine.format import torch_zip_write
from dcp_engine.format.digest import Bytes, as_bytes
from dcp_engine.format.torch_zip_write import PickledTensor, TensorPickler, ZipMember


class TorchArchive:
    """The file around a state dict in which a `PickledTensor` stands for each tensor whose bytes are to come.

    Args:
        state: Nested dicts and lists, with values that pickle.
        tensors: Those stand-ins, in the order in which their bytes will come; their keys are set here.
    """

    def __init__(self, state: object, tensors: Sequence[PickledTensor]) -> None:
        for number, tensor in enumerate(tensors):
            tensor.key = str(number)
        pickled = io.BytesIO()
        pickler = _StatePickler(pickled, len(tensors))
        pickler.dump(state)
        self._held = pickler.held
        self._members: list[ZipMember] = []
        head = bytearray()
        torch_zip_write.opening(head, self._members, pickled.getvalue())
        self._head = bytes(head)
        self._storages: list[ZipMember] = []
        at = len(head)
        for key, size in enumerate([*(each.size for each in tensors), *(held.nbytes for held in self._held)]):
            member = ZipMember(f"archive/data/{key}".encode(), size, 0, at, streamed=True)
            self._storages.append(member)
            at += len(torch_zip_write.local_header(member)) + size + len(torch_zip_write.descriptor(member))
        self._end = at
        self.size = at + len(torch_zip_write.closing([*self._members, *self._storages], at))
        """Bytes of the whole file."""

    def pieces(self, values: Iterator[Bytes]) -> Iterator[Bytes]:
        """Give the file's bytes.

        Args:
            values: Those of the tensors, one after the other; no piece is of two tensors.
        """
        yield as_bytes(self._head)
        members = list(self._members)
        coming = len(self._storages) - len(self._held)
        for number, member in enumerate(self._storages):
            own = values if number < coming else iter([_bytes_of(self._held[number - coming])])
            yield as_bytes(torch_zip_write.local_header(member))
            crc = yield from _summed(own, member.size)
            done = ZipMember(member.name, member.size, crc, member.offset, streamed=True)
            yield as_bytes(torch_zip_write.descriptor(done))
            members.append(done)
        yield as_bytes(torch_zip_write.closing(members, self._end))


class _StatePickler(TensorPickler):
    """Pickles a tensor within an object as a plain one, too, whose bytes follow those of the others."""

    def __init__(self, file: io.BytesIO, coming: int) -> None:
        super().__init__(file, protocol=2)
        self.held: list[torch.Tensor] = []
        self._coming = coming

    def reducer_override(self, obj: Any) -> Any:  # noqa: ANN401 - pickle's own signature
        """Return how a tensor is made again; leave all else to pickle."""
        if not isinstance(obj, torch.Tensor):
            return NotImplemented
        plain = obj.detach().to("cpu").resolve_conj().resolve_neg().contiguous()
        self.held.append(plain)
        return PickledTensor(plain.dtype, plain.shape, str(self._coming + len(self.held) - 1)).__reduce__()


def _summed(pieces: Iterator[Bytes], size: int) -> Generator[Bytes, None, int]:
    """Give the pieces of one storage; return their CRC-32."""
    crc, left = 0, size
    while left:
        piece = next(pieces)
        crc = zlib.crc32(piece.data, crc)
        left -= len(piece)
        yield piece
    return crc


def _bytes_of(tensor: torch.Tensor) -> Bytes:
    return tensor.reshape(-1).view(torch.uint8).numpy()
