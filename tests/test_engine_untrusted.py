"""Checkpoints that somebody crafted: each ends as CheckpointCorrupted, soon, and in little memory.

Each is opened by a process that forks for each operation (`hostile_program`).
"""

import dataclasses
import hashlib
import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import WriteItem

import dcp_engine
import hostile_program
import stock_dcp as dcp
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.format import layout
from dcp_engine.transfer import loadable
from hostile_pickles import BOMBS, MEBI, PICKLES, SLOW_BOMBS, SLOW_PICKLES
from hostile_program import Attempt

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.adversary]
MOST_BYTES = 256 * MEBI
MOST_SECONDS = 5
STATE = {"w": torch.arange(12.0).view(4, 3), "o": {"a": [1, 2]}}
READS = ("load", "inspect", "verify")
LOADS = ("load",)
PLANNERS = ("load", "stock planner", "dcp.load")
Make = Callable[[Path], object]


# Crafted checkpoints


def ours(folder: Path) -> None:
    dcp_engine.save(STATE, folder)


def stock(folder: Path) -> None:
    dcp.save(STATE, checkpoint_id=folder, no_dist=True)


def of_pickle(pickled: bytes) -> Make:
    def make(folder: Path) -> None:
        folder.mkdir()
        (folder / ".metadata").write_bytes(pickled)

    return make


def of_metadata(edit: Callable[[Metadata], object]) -> Make:
    """Make a stock checkpoint, then change what its `.metadata` says."""

    def make(folder: Path) -> None:
        stock(folder)
        metadata: Metadata = pickle.loads((folder / ".metadata").read_bytes())
        edit(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return make


def place(name: str = "w", **changes: Any) -> Callable[[Metadata], None]:
    def edit(metadata: Metadata) -> None:
        for index, info in metadata.storage_data.items():
            if index.fqn.startswith(name):
                metadata.storage_data[index] = dataclasses.replace(info, **changes)

    return edit


def chunk(**changes: Any) -> Callable[[Metadata], None]:
    def edit(metadata: Metadata) -> None:
        found: Any = metadata.state_dict_metadata["w"]
        found.chunks[0] = dataclasses.replace(found.chunks[0], **changes)

    return edit


def of_manifest(edit: Callable[[dict[str, Any]], object]) -> Make:
    """Make one of our own, then change its manifest, and all that says that it was not changed."""

    def make(folder: Path) -> None:
        ours(folder)
        (path,) = folder.glob("data-*/manifest.json")
        document = json.loads(path.read_text())
        edited = edit(document)
        reseal(folder, edited if isinstance(edited, bytes) else json.dumps(document).encode())

    return make


def reseal(folder: Path, manifest: bytes) -> None:
    (path,) = folder.glob("data-*/manifest.json")
    path.write_bytes(manifest)
    metadata = (folder / ".metadata").read_bytes()
    trailer, length = layout.parse_trailer(metadata)
    assert trailer
    again = dataclasses.replace(trailer, sha256=hashlib.sha256(manifest).hexdigest())
    (folder / ".metadata").write_bytes(metadata[:-length] + again.encode())


def put(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def edit(document: Any) -> None:
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = to

    return edit


class _Crafts(dcp.DefaultSavePlanner):
    """Saves other bytes in place of an object's."""

    def __init__(self, crafted: bytes) -> None:
        super().__init__()
        self.crafted = crafted

    def transform_object(self, write_item: WriteItem, object: Any) -> Any:  # noqa: A002
        return io.BytesIO(self.crafted)


def of_object(crafted: Callable[[], bytes]) -> Make:
    """Make one of our own whose object is something else; every digest is right."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loadable, "_fault", lambda *_: None)  # else the save itself reads what it wrote
            dcp_engine.save(STATE, folder, planner=_Crafts(crafted()))

    return make


def of_stock_item(crafted: Callable[[], bytes], name: str = "w") -> Make:
    """Make a stock checkpoint, one entry of which lies in a file of its own, which is something else."""

    def make(folder: Path) -> None:
        stock(folder)
        written = (folder / "__9_0.distcp").write_bytes(crafted())
        metadata: Metadata = pickle.loads((folder / ".metadata").read_bytes())
        place(name, relative_path="__9_0.distcp", offset=0, length=written)(metadata)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return make


def packed(pickled: bytes, *more: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return what torch.save would write, of a crafted pickle."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method, compresslevel=1) as archive:
        for name, data in (("data.pkl", pickled), ("byteorder", b"little"), ("version", b"3\n"), *more):
            archive.writestr(f"archive/{name}", data)
    return made.getvalue()


def zeros(count: int, size: int, *more: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a container with a tensor of zeros, and `size` bytes for its values."""
    made = io.BytesIO()
    torch.save(torch.zeros(count), made)
    with zipfile.ZipFile(made) as archive:
        pickled = archive.read(next(name for name in archive.namelist() if name.endswith("data.pkl")))
    return packed(pickled, ("data/0", bytes(size)), *more, method=method)


def lying(data: bytes) -> bytes:
    """Return a container with a second, zip64 directory's end that names other bytes."""
    end = data.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<H2I", data, end + 10)
    wide = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start + 1)
    return data[:end] + wide + struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1) + data[end:]


def twice(data: bytes) -> bytes:
    """Return a container that lists its members again and again: they stand for more bytes than there are."""
    end = data.rindex(b"PK\x05\x06")
    count, size, start = struct.unpack_from("<H2I", data, end + 10)
    directory = data[start : start + size] * 50
    return (
        data[:start]
        + directory
        + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, count * 50, count * 50, size * 50, start, 0)
    )


def legacy(value: object) -> bytes:
    made = io.BytesIO()
    torch.save(value, made, _use_new_zipfile_serialization=False)
    return made.getvalue()


def sparse(name: str, size: int, end: bytes, make: Make) -> Make:
    def made(folder: Path) -> None:
        make(folder)
        (path,) = folder.glob(name)
        with path.open("r+b") as file:
            file.truncate(size)
            file.seek(size - len(end))
            file.write(end)

    return made


def sidecar(change: Callable[[bytes], bytes]) -> Make:
    def make(folder: Path) -> None:
        ours(folder)
        (path,) = folder.glob("data-*/blocks.crc32c")
        path.write_bytes(change(path.read_bytes()))

    return make


def of_large_manifest(folder: Path) -> None:
    """Make a manifest and a sidecar that declare a file of 64 TiB alike."""
    size = 1 << 46
    of_manifest(put("files", 0, "size", to=size))(folder)
    (path,) = folder.glob("data-*/blocks.crc32c")
    with path.open("r+b") as file:
        file.truncate(size // layout.BLOCK * 4)


FILE, ENTRY = ("files", 0), ("tensors", "w")
ELSEWHERE = f"data-{'0' * 32}/__0_0.distcp"
PATHS = {
    "E-S2 absolute": "/etc/passwd",
    "E-S2 above": "../other/__0_0.distcp",
    "empty": "",
    "a dot": ".",
    "two dots": "..",
    "a dot inside": "./__0_0.distcp",
    "nothing inside": "a//b",
    "NUL": "__0\0_0.distcp",
    "a backslash": "..\\other",
    "another save's": ELSEWHERE,
    ".metadata itself": ".metadata",
}


def _by(name: str) -> tuple[str, ...]:
    """Return what reads it: of a kind whose members are many, a load stands for the rest, which reads it alike."""
    return READS if name.startswith("E-") else LOADS


CASES: dict[str, tuple[Make, tuple[str, ...]]] = {
    **{f"metadata, {name}": (of_pickle(data), (*_by(name), "save")) for name, data in PICKLES.items()},
    **{f"metadata, {name}": (of_pickle(data), LOADS) for name, data in SLOW_PICKLES.items()},
    "metadata, 8 GiB of nothing": (sparse(".metadata", 8 << 30, b".", stock), (*READS, "save")),
    "metadata, a path of a terabyte": (
        of_metadata(lambda found: found.planner_data.update(w=("a" * MEBI,) * MEBI)),
        (*LOADS, "save"),
    ),
    **{f"stock, path: {name}": (of_metadata(place(relative_path=path)), _by(name)) for name, path in PATHS.items()},
    "E-S3 stock, a length of 2^46": (of_metadata(place(length=1 << 46)), (*LOADS, "verify")),
    "stock, an object's length of 2^46": (of_metadata(place("o", length=1 << 46)), (*LOADS, "verify")),
    "stock, a length of 2^80": (of_metadata(place(length=1 << 80)), READS),
    "stock, a negative length": (of_metadata(place(length=-1)), LOADS),
    "stock, a negative offset": (of_metadata(place(offset=-1)), LOADS),
    "stock, an offset that is text": (of_metadata(place(offset="0")), READS),
    "stock, an offset that is true": (of_metadata(place(offset=True)), READS),
    "stock, entries share bytes": (of_metadata(place("", offset=0)), LOADS),
    "stock, a chunk outside": (of_metadata(chunk(sizes=torch.Size([5, 3]))), LOADS),
    "stock, a chunk too small": (of_metadata(chunk(sizes=torch.Size([2, 3]))), LOADS),
    "stock, a chunk of 2^62": (of_metadata(chunk(sizes=torch.Size([1 << 62, 3]))), LOADS),
    "stock, a place of nothing": (
        of_metadata(lambda found: found.storage_data.update({MetadataIndex("x"): _StorageInfo("__0_0.distcp", 0, 1)})),
        READS,
    ),
    "stock, nothing has a place": (of_metadata(lambda found: found.storage_data.clear()), LOADS),
    **{
        f"manifest, path: {name}": (of_manifest(put(*FILE, "path", to=path)), _by(name)) for name, path in PATHS.items()
    },
    "E-S3 manifest, a size of 2^46": (of_manifest(put(*FILE, "size", to=1 << 46)), (*LOADS, "verify")),
    "manifest, a size of 2^46 and a sidecar to it": (of_large_manifest, (*LOADS, "verify")),
    "manifest, a size of 2^80": (of_manifest(put(*FILE, "size", to=1 << 80)), READS),
    "manifest, a negative size": (of_manifest(put(*FILE, "size", to=-1)), READS),
    "manifest, a size that is no integer": (of_manifest(put(*FILE, "size", to=1e9)), READS),
    "manifest, a size that is infinite": (of_manifest(lambda _: b'{"format":1e999,"saveId":1e999}'), READS),
    "manifest, blocks with a gap": (of_manifest(put(*FILE, "firstBlock", to=1)), READS),
    "manifest, blocks before the first": (of_manifest(put(*FILE, "firstBlock", to=-1)), READS),
    "E-Minor manifest, other blocks": (of_manifest(put("blockSize", to=32768)), READS),
    "manifest, a file twice": (of_manifest(lambda found: found["files"].append(found["files"][0])), READS),
    "manifest, another save": (of_manifest(put("saveId", to="0" * 32)), READS),
    "manifest, no save": (of_manifest(put("saveId", to="")), READS),
    "manifest, a dtype that is none": (of_manifest(put(*ENTRY, "dtype", to="os")), LOADS),
    "manifest, a dtype that is a path": (of_manifest(put(*ENTRY, "dtype", to="../x")), READS),
    "manifest, a dtype that is a function": (of_manifest(put(*ENTRY, "dtype", to="load")), LOADS),
    "manifest, 2^63 elements": (of_manifest(put(*ENTRY, "shape", to=[1 << 63, 1])), READS),
    "manifest, 2^62 by 2^62 elements": (of_manifest(put(*ENTRY, "shape", to=[1 << 62, 1 << 62])), READS),
    "manifest, a thousand dimensions": (of_manifest(put(*ENTRY, "shape", to=[1] * 1000)), READS),
    "manifest, a shape that is text": (of_manifest(put(*ENTRY, "shape", to="12")), READS),
    "manifest, chunks that are a negative number": (of_manifest(put(*ENTRY, "chunks", to=-1)), READS),
    "manifest, chunks that are text": (of_manifest(put(*ENTRY, "chunks", to="x")), READS),
    "manifest, a chunk that is none": (of_manifest(put(*ENTRY, "chunks", to=[[[0, 0]]])), LOADS),
    "manifest, a chunk of text": (of_manifest(put(*ENTRY, "chunks", 0, 3, to="0")), READS),
    "manifest, a chunk outside its tensor": (of_manifest(put(*ENTRY, "chunks", 0, 1, to=[5, 3])), LOADS),
    "manifest, a chunk outside its file": (of_manifest(put(*ENTRY, "chunks", 0, 4, to=1 << 40)), LOADS),
    "manifest, a chunk of no file": (of_manifest(put(*ENTRY, "chunks", 0, 2, to=7)), LOADS),
    "manifest, a chunk of the last file but one": (of_manifest(put(*ENTRY, "chunks", 0, 2, to=-1)), LOADS),
    "manifest, values behind their chunk": (of_manifest(put(*ENTRY, "chunks", 0, 5, to=1 << 20)), LOADS),
    "manifest, a negative offset": (of_manifest(put(*ENTRY, "chunks", 0, 3, to=-5)), LOADS),
    "manifest, chunks share bytes": (
        of_manifest(
            lambda found: put("tensors", "o.a", "chunks", 0, 3, to=found["tensors"]["w"]["chunks"][0][3])(found)
        ),
        LOADS,
    ),
    "manifest, part of a tensor": (of_manifest(put(*ENTRY, "chunks", 0, 1, to=[2, 3])), LOADS),
    "manifest, nested": (of_manifest(lambda _: b"[" * 1_000_000), (*READS, "save")),
    "manifest, nested whole": (of_manifest(lambda _: b"[" * 1_000_000 + b"]" * 1_000_000), (*READS, "save")),
    "manifest, a chunk nested": (
        of_manifest(lambda found: json.dumps(found).replace("[[[", "[" * 100_000, 1).encode()),
        READS,
    ),
    "manifest, a number of a million digits": (
        of_manifest(lambda found: json.dumps(found).replace('"step": null', '"step": ' + "9" * 1_000_000).encode()),
        READS,
    ),
    "manifest, lists over and over": (
        of_manifest(lambda found: json.dumps(found).replace('"step": null', f'"step": [{"[]," * MEBI}0]').encode()),
        READS,
    ),
    "manifest, no text": (of_manifest(lambda _: b"\xff\xfe\x00"), READS),
    "manifest, nothing": (of_manifest(lambda _: b""), READS),
    "manifest, 8 GiB of nothing": (sparse("data-*/manifest.json", 8 << 30, b"}", ours), (*READS, "save")),
    "sidecar, cut": (sidecar(lambda data: data[:-1]), (*LOADS, "verify")),
    "sidecar, longer": (sidecar(lambda data: data + b"\0"), (*LOADS, "verify")),
    "sidecar, empty": (sidecar(lambda _: b""), (*LOADS, "verify")),
    "sidecar, other digests": (sidecar(lambda data: data[::-1]), (*LOADS, "verify")),
    "sidecar, 8 GiB": (sparse("data-*/blocks.crc32c", 8 << 30, b"", ours), (*LOADS, "verify")),
    **{f"object, {name}": (of_object(partial(packed, pickled)), PLANNERS) for name, pickled in BOMBS.items()},
    **{
        f"stock object, {name}": (of_stock_item(partial(packed, pickled), "o"), PLANNERS)
        for name, pickled in BOMBS.items()
    },
    **{f"stock tensor, {name}": (of_stock_item(partial(packed, pickled)), LOADS) for name, pickled in BOMBS.items()},
    **{f"object, {name}": (of_object(partial(packed, pickled)), LOADS) for name, pickled in SLOW_BOMBS.items()},
    "object, no container": (of_object(lambda: b"\x80\x02N."), LOADS),
    "object, empty": (of_object(bytes), LOADS),
    "object, of before there were containers": (of_object(partial(legacy, [1, 2])), LOADS),
    "object, deflated": (of_object(partial(zeros, 1, 300 * MEBI, method=zipfile.ZIP_DEFLATED)), LOADS),
    "E-S3 stock tensor, deflated": (
        of_stock_item(partial(zeros, 12, 300 * MEBI, method=zipfile.ZIP_DEFLATED)),
        (*LOADS, "verify"),
    ),
    "stock tensor, of another shape": (of_stock_item(partial(zeros, 5, 20)), LOADS),
    "stock tensor, a directory that lies": (of_stock_item(lambda: lying(zeros(12, 48))), (*LOADS, "verify")),
    "stock tensor, members listed again": (of_stock_item(lambda: twice(zeros(12, 48))), (*LOADS, "verify")),
    "stock tensor, two members of one name": (
        of_stock_item(lambda: zeros(12, 48, ("DATA.PKL", b"\x80\x02N."))),
        (*LOADS, "verify"),
    ),
}
"""What is made, and which operations refuse it. A save that replaces it goes well, and looks at its metadata alone."""
SLOW: dict[str, tuple[Make, tuple[str, ...]]] = {
    "metadata, a path of a terabyte": (CASES["metadata, a path of a terabyte"][0], ("inspect", "verify")),
    **{f"metadata, {name}": (of_pickle(data), ("save",)) for name, data in SLOW_PICKLES.items()},
    **{f"object, {name}": (of_object(partial(packed, data)), PLANNERS[1:]) for name, data in SLOW_BOMBS.items()},
    **{
        f"stock object, {name}": (of_stock_item(partial(packed, data), "o"), PLANNERS)
        for name, data in SLOW_BOMBS.items()
    },
    **{f"stock tensor, {name}": (of_stock_item(partial(packed, data)), LOADS) for name, data in SLOW_BOMBS.items()},
}
"""By more ways, what takes all the time that its reader has."""
REFUSED_BY_STOCK = "global metadata read failed: "
"""How DCP hands on what a reader says of a checkpoint; it keeps the text, not the class."""


@pytest.fixture(scope="module")
def attempt() -> Iterator[Attempt]:
    with hostile_program.running() as attempt:
        yield attempt


@pytest.mark.filterwarnings("ignore")  # stock's own
@pytest.mark.parametrize(
    ("make", "operations"),
    [
        *(pytest.param(*case, id=name) for name, case in CASES.items()),
        *(pytest.param(*case, id=f"{name}, too", marks=pytest.mark.tier("matrix")) for name, case in SLOW.items()),
    ],
)
def test_a_crafted_checkpoint_is_refused_soon_and_in_little_memory(
    make: Make, operations: tuple[str, ...], attempt: Attempt, tmp_path: Path
) -> None:
    make(tmp_path / "it")
    wrong = []
    for operation in operations:
        found = attempt(operation, tmp_path / "it")
        kind, message = found["outcome"]
        good = kind == ("ok" if operation == "save" else "CheckpointCorrupted") or REFUSED_BY_STOCK in message
        if not good or found["bytes"] > MOST_BYTES or found["seconds"] > MOST_SECONDS:
            wrong.append(f"{operation}: {kind}: {message[:300]} ({found['bytes'] >> 20} MiB, {found['seconds']:.1f} s)")
    assert not wrong, "\n".join(wrong)


class _Runs:
    """Makes a file named `ran` beside the checkpoint when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_of_our_own_checkpoint_nothing_is_unpickled(tmp_path: Path) -> None:
    """E-S1: the pickle in `.metadata` is for stock readers; the trailer behind it leads to the manifest."""
    url, ran = tmp_path / "run", tmp_path / "ran"
    dcp_engine.save(STATE, url)
    metadata = (url / ".metadata").read_bytes()
    _, length = layout.parse_trailer(metadata)
    crafted = pickle.dumps(_Runs(ran))
    (url / ".metadata").write_bytes(crafted + metadata[-length:])
    found = {"w": torch.zeros(4, 3), "o": {"a": [0, 0]}}
    dcp_engine.load(found, url)
    assert torch.equal(found["w"], STATE["w"])  # type: ignore[arg-type] # the state's values are of two kinds
    assert dcp_engine.inspect(url).tensors.keys() == {"w"} | {"o.a"}
    with pytest.raises(CheckpointCorrupted, match=r"\.metadata"):
        dcp_engine.verify(url)
    dcp_engine.save(STATE, url, overwrite=True)
    assert not ran.exists()
    pickle.loads(crafted)
    assert ran.exists()
