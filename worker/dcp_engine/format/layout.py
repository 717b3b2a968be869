"""Where things lie below a checkpoint's URL, and the line that ends `.metadata`.

.metadata                          the commit point: a pickle for DCP, then one line of JSON for us
data-<save id>/__<rank>_<n>.distcp
data-<save id>/manifest.json
data-<save id>/blocks.crc32c
replaced/<save id>.<save id>       see `replaced`
"""

import json
import pickle
import re
import uuid
from dataclasses import dataclass
from typing import Final

from dcp_engine.errors import CheckpointCorrupted, InvalidOption

METADATA: Final = ".metadata"
RANK_LOCAL_METADATA: Final = "__0.metadata"
"""Of rank 0, where stock DCP commits each rank by itself."""
REPLACED: Final = "replaced"
TAIL_BYTES: Final = 4096
"""How much of the end of `.metadata` surely holds the trailer."""
FILE_LIMIT: Final = 32 << 30
"""Bytes after which a rank begins its next file; keeps an upload below the 10,000 parts that S3 takes."""

BLOCK: Final = 64 << 10
"""Bytes under one digest. A small block keeps the widening of a ranged read small; 64 MiB of digests cover 1 TiB."""

_SAVE_ID: Final = re.compile(r"[0-9a-f]{32}")
_OWN_FOLDER: Final = re.compile(r"data-(probe-)?[0-9a-f]{32}")
_OWN_NAME: Final = re.compile(r"(__[0-9]+_[0-9]+\.distcp|manifest\.json|blocks\.crc32c|probe)(\.[0-9a-f]{32}\.tmp)?")
_STOCK_NAME: Final = re.compile(r"__[0-9]+_[0-9]+\.distcp")
_DATA_FOLDER: Final = re.compile(r"data-[0-9a-f]{32}(?:/|$)")
_TRAILER: Final = "dcpOperator"
_MARK: Final = f'\n{{"{_TRAILER}":'.encode()


def new_save_id() -> str:
    """Return a name that no other save has or ever will have."""
    return uuid.uuid4().hex


def is_save_id(text: str) -> bool:
    """Tell whether a text may be the name of a save."""
    return _SAVE_ID.fullmatch(text) is not None


def data_folder(save_id: str) -> str:
    """Return the folder that one save, and only that save, writes to."""
    if not _SAVE_ID.fullmatch(save_id):
        raise ValueError(f"{save_id!r} is not a save id")
    return f"data-{save_id}"


def manifest_path(save_id: str) -> str:
    """Return where a save's manifest lies."""
    return f"{data_folder(save_id)}/manifest.json"


def blocks_path(save_id: str) -> str:
    """Return where the digests of a save's blocks lie."""
    return f"{data_folder(save_id)}/blocks.crc32c"


def data_path(save_id: str, rank: int, number: int) -> str:
    """Return the name of a rank's n-th data file; the last part is stock DCP's."""
    return f"{data_folder(save_id)}/__{rank}_{number}.distcp"


def is_own_folder(name: str) -> bool:
    """Tell whether a folder beside `.metadata` has the name of one that a save or a probe makes."""
    return _OWN_FOLDER.fullmatch(name) is not None


def is_save_folder(name: str) -> bool:
    """Tell whether a folder beside `.metadata` has the name of one that a save makes."""
    return name.startswith("data-") and is_save_id(name.removeprefix("data-"))


def is_emptied_folder(path: str) -> bool:
    """Tell whether a path, which ends with a `/`, is that of a folder beside `.metadata` that saves make and empty."""
    name = path.removesuffix("/")
    return name != path and (name == REPLACED or is_own_folder(name))


def is_own_file(path: str) -> bool:
    """Tell whether a path is one that a save or a probe writes below its own folder, or leaves there when killed."""
    folder, _, name = path.partition("/")
    return is_own_folder(folder) and _OWN_NAME.fullmatch(name) is not None


def is_stock_file(path: str) -> bool:
    """Tell whether a path is that of a data file as stock DCP names them, beside `.metadata`."""
    return _STOCK_NAME.fullmatch(path) is not None


def is_data_file(path: str, save_id: str) -> bool:
    """Tell whether this is the name of a data file of one save."""
    folder, _, name = path.rpartition("/")
    return folder == f"data-{save_id}" and bool(_STOCK_NAME.fullmatch(name))


def may_be_stock(path: str) -> bool:
    """Tell whether this may be a data file that a stock `.metadata` names: below it, and in nobody else's folder."""
    parts = path.split("/")
    unsafe = not {"", ".", ".."}.isdisjoint(parts) or "\0" in path or "\\" in path
    return not unsafe and not _DATA_FOLDER.match(path) and parts[-1] != METADATA


def file_place(url: str) -> tuple[str, str]:
    """Return the folder that a file's URL or path lies in, and the file's name.

    Raises:
        InvalidOption: It is a folder's, or the root of a bucket.
    """
    folder, slash, name = url.rpartition("/")
    if not name or name in {".", ".."} or folder.endswith(":/"):
        raise InvalidOption(f"{url} names no file; write its name at the end, as in {url.rstrip('/')}/model.pt")
    return (folder or "/") if slash else ".", name


@dataclass(frozen=True)
class Trailer:
    """What the last line of `.metadata` says: whose save it is, and how to be sure of its manifest."""

    save_id: str
    manifest: str
    sha256: str

    def encode(self) -> bytes:
        """Return the line; it follows the pickle's STOP, after which no reader of pickles looks."""
        fields = {"saveId": self.save_id, "manifest": self.manifest, "sha256": self.sha256}
        return f"\n{json.dumps({_TRAILER: fields}, separators=(',', ':'))}\n".encode()


def parse_trailer(data: bytes) -> tuple[Trailer | None, int]:
    """Return the trailer at the end of `data`, None where a stock writer wrote it, and the trailer's length.

    Raises:
        CheckpointCorrupted: it is neither. A trailer that was cut off or changed must not pass for a stock writer's
            end, since then nothing else would be checked.
    """
    start = data.rfind(_MARK)
    if start < 0 and data.endswith(pickle.STOP):
        return None, 0
    try:
        fields = json.loads(data[max(0, start) :])[_TRAILER]
        trailer = Trailer(fields["saveId"], fields["manifest"], fields["sha256"])
        if trailer.manifest == manifest_path(trailer.save_id):
            return trailer, len(data) - start
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise CheckpointCorrupted(METADATA, "was cut off or changed: its end is neither ours nor stock DCP's")
