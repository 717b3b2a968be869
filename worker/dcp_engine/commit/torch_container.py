"""Where the members of a file of `torch.save` lie: its end, its directory and its local headers. No torch here."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from dcp_engine.commit.safetensors_folder import read_range
from dcp_engine.errors import CheckpointCorrupted, CheckpointNotFound
from dcp_engine.format import torch_zip_read
from dcp_engine.format.torch_zip_read import ListedMember
from dcp_engine.stores.protocol import Blob, Store
from dcp_engine.translate import is_missing_file

_LARGEST: Final = 64 << 20
"""Bytes of a directory that are read."""
_GAP: Final = 64 << 10
"""Bytes between two local headers that cost less than a second request."""


@dataclass(frozen=True)
class Directory:
    """Where a file's directory stands, and how many members it names."""

    count: int
    size: int
    start: int


def directory(store: Store, name: str) -> tuple[Blob, Directory]:
    """Return the end of a file, with its size and version, and where its directory stands.

    Raises:
        CheckpointNotFound: There is no such file.
        CheckpointCorrupted: It is none that torch 1.6 or later writes.
    """
    try:
        end = store.read(name, tail=torch_zip_read.TAIL)
    except FileNotFoundError as error:
        if not is_missing_file(error):
            raise
        raise CheckpointNotFound(f"{store.url}/{name}", "there is no such file") from error
    if end.size < len(torch_zip_read.START) or read_range(store, name, 0, 4) != torch_zip_read.START:
        raise CheckpointCorrupted(name, "is no file that torch.save of torch 1.6 or later writes: it begins otherwise")
    try:
        found = Directory(*torch_zip_read.directory_in(memoryview(end.data), end.size))
    except ValueError as error:
        raise CheckpointCorrupted(name, f"is no file that torch.save writes: {error}") from error
    if found.size > _LARGEST:
        raise CheckpointCorrupted(name, f"has a directory of {found.size} bytes, which is larger than any")
    return end, found


def places(store: Store, name: str, directory: Directory) -> dict[str, tuple[ListedMember, int]]:
    """Return the members by their names without the folder, each with the place of its first byte.

    Raises:
        ValueError: They are none that torch writes.
    """
    members = torch_zip_read.listed(
        memoryview(read_range(store, name, directory.start, directory.size)), directory.count, directory.start
    )
    groups: list[list[ListedMember]] = []
    for member in sorted(members, key=lambda each: each.offset):
        if member.offset + torch_zip_read.HEADER > directory.start:
            raise ValueError(f"its member {member.name} does not lie in it")
        if not groups or member.offset > groups[-1][0].offset + _GAP:
            groups.append([])
        groups[-1].append(member)

    def headers(group: list[ListedMember]) -> list[tuple[ListedMember, int]]:
        first = group[0].offset
        data = memoryview(read_range(store, name, first, group[-1].offset + torch_zip_read.HEADER - first))
        return [(each, torch_zip_read.start_of(data[each.offset - first :], each, directory.start)) for each in group]

    with ThreadPoolExecutor(store.readers, thread_name_prefix="dcp-read") as pool:
        found = [place for group in pool.map(headers, groups) for place in group]
    return {member.name.partition("/")[2]: (member, at) for member, at in found}
