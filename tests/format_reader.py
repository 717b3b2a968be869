"""A reader of checkpoints that was written from docs/format.md alone: no torch, no dcp_engine.

`python tests/format_reader.py FOLDER` checks the checkpoint in a folder and prints what it holds.
"""

import hashlib
import io
import json
import math
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import google_crc32c

MARK = b'\n{"dcpOperator":'
STOP = b"."
CODES = {"float32": "f", "float64": "d", "int64": "q", "bool": "?", "complex64": "ff"}
"""Types of torch whose values `struct` reads."""


class Damaged(Exception):
    """The checkpoint is not what was saved."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint below a folder."""

    folder: Path
    trailer: dict[str, str]
    manifest: dict[str, Any]

    @property
    def data(self) -> Path:
        return self.folder / f"data-{self.trailer['saveId']}"


def opened(folder: Path) -> Checkpoint:
    """Steps 1 and 2: the trailer, and the manifest that it names."""
    end = (folder / ".metadata").read_bytes()[-4096:]
    start = end.rfind(MARK)
    if start < 0:
        raise Damaged("stock DCP saved this" if end.endswith(STOP) else ".metadata was cut off or changed")
    try:
        trailer = json.loads(end[start:])["dcpOperator"]
    except ValueError as error:
        raise Damaged(".metadata was cut off or changed") from error
    if trailer["manifest"] != f"data-{trailer['saveId']}/manifest.json":
        raise Damaged("the trailer names another manifest")
    encoded = (folder / trailer["manifest"]).read_bytes()
    if hashlib.sha256(encoded).hexdigest() != trailer["sha256"]:
        raise Damaged("the manifest does not have the sha256 of the trailer")
    manifest = json.loads(encoded)
    if (manifest["format"], manifest["saveId"], manifest["blockSize"]) != (1, trailer["saveId"], 65536):
        raise Damaged("the manifest is of another format or of another save")
    return Checkpoint(folder, trailer, manifest)


def check(found: Checkpoint) -> None:
    """Steps 3 to 5: the pickle, the sizes, every block, and the whole file."""
    metadata = (found.folder / ".metadata").read_bytes()
    pickled = metadata[: metadata.rfind(MARK)]
    if hashlib.sha256(pickled).hexdigest() != found.manifest["metadataSha256"]:
        raise Damaged("the pickle does not have the sha256 of the manifest")
    digests = (found.data / "blocks.crc32c").read_bytes()
    size = found.manifest["blockSize"]
    number = 0
    for file in found.manifest["files"]:
        content = (found.folder / file["path"]).read_bytes()
        if len(content) != file["size"]:
            raise Damaged(f"{file['path']} has {len(content)} bytes")
        if file["firstBlock"] != number:
            raise Damaged(f"the digests of {file['path']} do not follow those of the file before")
        for start in range(0, len(content), size):
            (wanted,) = struct.unpack_from("<I", digests, 4 * number)
            if google_crc32c.value(content[start : start + size]) != wanted:
                raise Damaged(f"{file['path']} differs in the block at {start}")
            number += 1
        if google_crc32c.value(content) != file["crc32c"]:
            raise Damaged(f"{file['path']} has another crc32c")
    if len(digests) != 4 * number:
        raise Damaged("blocks.crc32c has another length")
    for name, entry in found.manifest["tensors"].items():
        check_chunks(found, name, entry)


def check_chunks(found: Checkpoint, name: str, entry: dict[str, Any]) -> None:
    """Check that the chunks fill the tensor and lie in their files, and that each of them is an archive."""
    filled = 0
    for offsets, sizes, file, offset, length, payload in entry["chunks"]:
        if any(at + size > limit for at, size, limit in zip(offsets, sizes, entry["shape"], strict=True)):
            raise Damaged(f"a chunk of {name} lies outside of it")
        if offset + length > found.manifest["files"][file]["size"]:
            raise Damaged(f"a chunk of {name} lies outside of its file")
        filled += math.prod(sizes)
        if payload is not None and payload != storage_at(found, file, offset, length):
            raise Damaged(f"the values of {name} lie elsewhere in the archive")
    if filled != math.prod(entry["shape"]):
        raise Damaged(f"the chunks of {name} do not fill it")


def storage_at(found: Checkpoint, file: int, offset: int, length: int) -> int:
    """Return where the values begin by the zip's own account: behind the local header of `archive/data/0`."""
    data = chunk_bytes(found, file, offset, length)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        start = archive.getinfo("archive/data/0").header_offset
    name, extra = struct.unpack_from("<2H", data, start + 26)
    return int(start + 30 + name + extra)


def values(found: Checkpoint, name: str) -> dict[tuple[int, ...], tuple[Any, ...]]:
    """Return the values of a tensor's chunks, in row-major order, by the chunks' offsets."""
    entry = found.manifest["tensors"][name]
    result = {}
    for offsets, sizes, file, offset, length, payload in entry["chunks"]:
        data = chunk_bytes(found, file, offset, length)
        code = "<" + CODES[entry["dtype"]] * math.prod(sizes)
        result[tuple(offsets)] = struct.unpack_from(code, data, payload)
    return result


def chunk_bytes(found: Checkpoint, file: int, offset: int, length: int) -> bytes:
    with (found.folder / found.manifest["files"][file]["path"]).open("rb") as data:
        data.seek(offset)
        content: bytes = data.read(length)
    return content


def described(found: Checkpoint) -> Iterator[str]:
    for name, entry in found.manifest["tensors"].items():
        yield f"{name}: {entry['dtype'] or 'object'} {entry['shape']} in {len(entry['chunks'])} chunks"


if __name__ == "__main__":
    checkpoint = opened(Path(sys.argv[1]))
    check(checkpoint)
    print("\n".join(described(checkpoint)))
    foreign = {"torch", "dcp_engine"} & sys.modules.keys()
    sys.exit(f"imported {foreign}" if foreign else 0)
