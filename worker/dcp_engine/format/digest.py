"""crc32c (Castagnoli) of every block of a file, while its bytes stream, and of the whole file from those.

The block digests of all files stand one after the other, 4 bytes little-endian each, in one sidecar. A ranged read is
widened to block borders and checked before any byte of it reaches a tensor. The digest of a whole file is folded from
its blocks' with the CRC's linearity, so it costs nothing more and equals what other tools compute for the file.
"""

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt
from awscrt import checksums

from dcp_engine.format import layout

BLOCK: Final = layout.BLOCK
"""Bytes under one digest."""
_POLYNOMIAL: Final = 0x82F63B78
_BITS: Final = 32

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint32]
Matrix = tuple[int, ...]


def as_bytes(buffer: object) -> Bytes:
    """Return a flat view of the buffer's bytes, without a copy."""
    return np.frombuffer(buffer, dtype=np.uint8)  # type: ignore[call-overload,no-any-return]


class BlockDigest:
    """Takes a file's bytes in pieces of any size, gives the digest of each block as it fills."""

    def __init__(self) -> None:
        self.size = 0
        self._crc = 0
        self._filled = 0

    def update(self, data: Bytes) -> list[int]:
        """Take the next bytes of the file; return the digests of the blocks that they complete."""
        self.size += len(data)
        done: list[int] = []
        start = 0
        if self._filled:
            start = min(BLOCK - self._filled, len(data))
            self._extend(data[:start], done)
        whole = start + (len(data) - start) // BLOCK * BLOCK
        done.extend(checksums.crc32c(data[at : at + BLOCK]) for at in range(start, whole, BLOCK))
        if whole < len(data):
            self._extend(data[whole:], done)
        return done

    def rest(self) -> list[int]:
        """Return the digest of the last, short block, if there is one."""
        return [self._crc] if self._filled else []

    def _extend(self, data: Bytes, done: list[int]) -> None:
        self._crc = checksums.crc32c(data, self._crc)
        self._filled += len(data)
        if self._filled == BLOCK:
            done.append(self._crc)
            self._crc = self._filled = 0


def fold(blocks: Sequence[int] | Words, size: int) -> int:
    """Return the digest of a whole file of `size` bytes from its blocks' digests.

    Neighbours are joined pair by pair, all pairs at once. Zeros in front change nothing: no bytes have the digest 0.
    """
    if not len(blocks):
        return 0
    whole, last = blocks[:-1], blocks[-1]
    levels = max(0, len(whole) - 1).bit_length()
    crcs = np.zeros(1 << levels, dtype=np.uint32)
    crcs[len(crcs) - len(whole) :] = whole
    for level in range(levels):
        crcs = _shift(_tables(BLOCK << level), crcs[0::2]) ^ crcs[1::2]
    return _times(_zeros(size - len(whole) * BLOCK), int(crcs[0])) ^ int(last)


def pack(blocks: Iterable[int]) -> bytes:
    """Return the sidecar's form of the digests."""
    return np.fromiter(blocks, dtype="<u4").tobytes()


def unpack(data: bytes) -> Words:
    """Return the digests in a piece of a sidecar, which are many."""
    return np.frombuffer(data, dtype="<u4").astype(np.uint32, copy=False)


def _times(matrix: Matrix, vector: int) -> int:
    """Multiply over GF(2): the CRC after some zero bytes is a linear map of the CRC before."""
    result = 0
    for column in matrix:
        if vector & 1:
            result ^= column
        vector >>= 1
    return result


@cache
def _zeros(count: int) -> Matrix:
    """Return the map that `count` zero bytes apply to a CRC, by repeated squaring (as zlib's crc32_combine does)."""
    if not count:
        return tuple(1 << bit for bit in range(_BITS))
    if count == 1:
        bit: Matrix = (_POLYNOMIAL, *(1 << bit for bit in range(_BITS - 1)))
        return _after(*[bit] * 8)
    half = _zeros(count // 2)
    return _after(half, half, _zeros(count % 2))


def _after(first: Matrix, *others: Matrix) -> Matrix:
    """Return the map that applies all of them."""
    for other in others:
        first = tuple(_times(other, column) for column in first)
    return first


@cache
def _tables(count: int) -> tuple[Words, ...]:
    """Return what `count` zero bytes make of each byte of a CRC."""
    matrix = _zeros(count)
    tables = []
    for shift in range(0, _BITS, 8):
        table = np.zeros(1, dtype=np.uint32)
        for column in matrix[shift : shift + 8]:
            table = np.concatenate([table, table ^ np.uint32(column)])
        tables.append(table)
    return tuple(tables)


def _shift(tables: tuple[Words, ...], crcs: Words) -> Words:
    one, two, three, four = tables
    shifted: Words = one[crcs & 255] ^ two[crcs >> 8 & 255] ^ three[crcs >> 16 & 255] ^ four[crcs >> 24]
    return shifted
