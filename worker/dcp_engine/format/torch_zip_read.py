"""What stands in a file of `torch.save`: a zip of stored members, found here as torch's own reader finds them.

torch inflates what is packed, believes the sizes that stand there, and looks names up without regard to case. What
passes here holds plain bytes, each once, and no more of them than the file has. Pure.
"""

import struct
from dataclasses import dataclass
from typing import Final

START: Final = b"PK\x03\x04"
_LOCAL: Final = struct.Struct("<4s5H3I2H")
_CENTRAL: Final = struct.Struct("<4s6H3I5H2I")
_END: Final = struct.Struct("<4s4H2IH")
_END64: Final = struct.Struct("<4sQ2H2I4Q")
_LOCATOR: Final = struct.Struct("<4sIQI")
HEADER: Final = _LOCAL.size
"""Bytes of a local header, without the name and the padding that follow it."""
TAIL: Final = _END.size + _LOCATOR.size + _END64.size
"""Bytes of a container's end that say where its directory stands."""
_WIDE: Final = 0xFFFFFFFF
_WIDE_COUNT: Final = 0xFFFF


@dataclass(frozen=True)
class Member:
    """One member: its name, and its bytes where they lie."""

    name: str
    data: memoryview
    crc: int


@dataclass(frozen=True)
class ListedMember:
    """One member as the directory has it: where its local header begins, and how many bytes it has."""

    name: str
    size: int
    crc: int
    offset: int


def members(data: memoryview) -> list[Member]:
    """Return the members of one container, which fills `data`.

    Raises:
        ValueError: it is none that torch writes, and says why.
    """
    count, size, start = directory_in(data, len(data))
    found = []
    for member in listed(data[start : start + size], count, start):
        begin = start_of(data[member.offset : member.offset + HEADER], member, start)
        found.append(Member(member.name, data[begin : begin + member.size], member.crc))
    if bytes(data[:4]) != START:
        raise ValueError("it does not begin as torch begins it")
    return found


def directory_in(tail: memoryview, length: int) -> tuple[int, int, int]:
    """Return how many members a container has, and the bytes and the start of its directory.

    Args:
        tail: Its last bytes, `TAIL` of them if it has so many.
        length: Its bytes.

    Raises:
        ValueError: It does not end as torch ends it.
    """
    try:
        count, size, start, end = _directory(tail, length - len(tail))
    except struct.error as error:
        raise ValueError(f"its directory is damaged: {error}") from error
    if start + size != end:
        raise ValueError("its directory does not stand at its end")
    return count, size, start


def listed(directory: memoryview, count: int, start: int) -> list[ListedMember]:
    """Return the members that a directory names, which begins at byte `start` of the container.

    Raises:
        ValueError: They are not simply stored, or more than the container has bytes.
    """
    found: list[ListedMember] = []
    at = 0
    try:
        for _ in range(count):
            member, at = _entry(directory, at)
            found.append(member)
    except (struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"its directory is damaged: {error}") from error
    if at != len(directory) or sum(member.size for member in found) > start:
        raise ValueError("its members are more than its bytes")
    if len({member.name.lower() for member in found}) != len(found):
        raise ValueError("two of its members have one name")
    if len({member.name.partition("/")[0] for member in found}) != 1:
        raise ValueError("its members stand in several folders")
    return found


def start_of(header: memoryview, member: ListedMember, limit: int) -> int:
    """Return where a member's bytes begin, given its local header; they end before the directory, at `limit`.

    Raises:
        ValueError: They do not, or there is no such header.
    """
    if len(header) < HEADER:
        raise ValueError(f"its member {member.name} does not lie in it")
    mark, *_, own_named, own_extra = _LOCAL.unpack_from(header, 0)
    start = member.offset + HEADER + int(own_named) + int(own_extra)
    if mark != START or start + member.size > limit:
        raise ValueError(f"its member {member.name} does not lie in it")
    return start


def pickle_in(found: list[Member]) -> memoryview:
    """Return the pickle that says what the container holds.

    Raises:
        ValueError: there is none.
    """
    for member in found:
        if member.name.lower().partition("/")[2] == "data.pkl":
            return member.data
    raise ValueError("it holds no data.pkl")


def storages_in(found: list[Member]) -> tuple[tuple[str, int], ...]:
    """Return the storages that the pickle may refer to: their keys, and their bytes."""
    names = ((member.name.partition("/")[2], len(member.data)) for member in found)
    return tuple((name.removeprefix("data/"), size) for name, size in names if name.startswith("data/"))


def _directory(data: memoryview, base: int) -> tuple[int, int, int, int]:
    """Return the directory's entries, bytes and start, and what comes after it starts; `data` begin at byte `base`."""
    end = len(data) - _END.size
    if end < 0:
        raise ValueError("it is too short")
    mark, disk, first, here, count, size, start, comment = _END.unpack_from(data, end)
    if mark != b"PK\x05\x06" or disk or first or here != count or comment:
        raise ValueError("it does not end as torch ends it")
    if end >= _LOCATOR.size and bytes(data[end - _LOCATOR.size :][:4]) == b"PK\x06\x07":
        _, _, place, _ = _LOCATOR.unpack_from(data, end - _LOCATOR.size)
        end -= _LOCATOR.size + _END64.size
        if place != base + end or end < 0:
            raise ValueError("its two ends do not agree")
        mark, _, _, _, _, _, here, count64, size64, start64 = _END64.unpack_from(data, end)
        agree = count in {count64, _WIDE_COUNT} and size in {size64, _WIDE} and start in {start64, _WIDE}
        if mark != b"PK\x06\x06" or here != count64 or not agree:
            raise ValueError("its two ends do not agree")
        count, size, start = count64, size64, start64
    return count, size, start, base + end


def _entry(data: memoryview, at: int) -> tuple[ListedMember, int]:
    """Return the member whose entry in the directory stands there, and where the next entry stands."""
    fields = _CENTRAL.unpack_from(data, at)
    mark, flags, method, crc, packed, size = fields[0], fields[3], fields[4], fields[7], fields[8], fields[9]
    named, extra, comment, offset = fields[10], fields[11], fields[12], fields[16]
    at += _CENTRAL.size
    name = bytes(data[at : at + named]).decode()
    packed, size, offset = _widened(data[at + named : at + named + extra], packed, size, offset)
    if mark != b"PK\x01\x02" or method or flags & 1 or packed != size:
        raise ValueError(f"its member {name} is not simply stored")
    return ListedMember(name, size, crc, offset), at + named + extra + comment


def _widened(extra: memoryview, packed: int, size: int, offset: int) -> tuple[int, int, int]:
    """Return the sizes and the offset, from the field for large ones where they are marked so."""
    at = 0
    while _WIDE in {packed, size, offset} and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            values = iter(struct.unpack_from(f"<{min(length, 24) // 8}Q", extra, at))
            size = next(values, size) if size == _WIDE else size
            packed = next(values, packed) if packed == _WIDE else packed
            offset = next(values, offset) if offset == _WIDE else offset
            return packed, size, offset
        at += length
    return packed, size, offset
