"""What crafted files, odd values and a store that fails at an odd moment must not make of the engine."""

import dataclasses
import errno
import gc
import hashlib
import json
import os
import pickle
import subprocess
import time
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, ChunkStorageMetadata, MetadataIndex

import dcp_engine
import stock_dcp as dcp
from dcp_engine.commit import replaced
from dcp_engine.commit.replaced import Live, Tombstone
from dcp_engine.errors import CheckpointCorrupted, EngineError
from dcp_engine.format import layout, manifest, metadata, sandbox
from dcp_engine.stores import folders, local_store
from dcp_engine.transfer import fingerprint

pytestmark = [
    pytest.mark.tier("ranks"),
    pytest.mark.adversary,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]
STATE = {"w": torch.arange(12.0).reshape(4, 3), "o": {"a": [1, 2]}}


def ended_by(folder: Path, line: bytes) -> Path:
    """Save, then give `.metadata` another last line."""
    dcp_engine.save(STATE, folder)
    data = (folder / layout.METADATA).read_bytes()
    _, length = layout.parse_trailer(data)
    (folder / layout.METADATA).write_bytes(data[:-length] + line)
    return folder


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(b'\n{"dcpOperator":' + b"[" * 3900, id="E-S1 nested"),
        pytest.param(b'\n{"dcpOperator":' + b'{"a":' * 780, id="E-S1 nested objects"),
        pytest.param(b'\n{"dcpOperator":{"saveId":' + b"9" * 3900 + b"}}\n", id="a number of thousands of digits"),
        pytest.param(b'\n{"dcpOperator":{"saveId":["a"],"manifest":{},"sha256":0}}\n', id="no text"),
    ],
)
def test_a_last_line_that_is_none_is_named_and_can_be_replaced(tmp_path: Path, line: bytes) -> None:
    folder = ended_by(tmp_path / "c", line)
    for look in (dcp_engine.inspect, dcp_engine.verify, dcp_engine.find):
        with pytest.raises(CheckpointCorrupted):
            look(folder)
    dcp_engine.save(STATE, folder, overwrite=True)
    dcp_engine.verify(folder)


def test_verify_reads_no_more_of_metadata_than_its_manifest_can_have_a_pickle_of(tmp_path: Path) -> None:
    """E-S3: a file with a hole has any size, and takes no room."""
    dcp_engine.save(STATE, tmp_path / "c")
    metadata = tmp_path / "c" / layout.METADATA
    data = metadata.read_bytes()
    _, length = layout.parse_trailer(data)
    with metadata.open("r+b") as file:
        file.truncate((64 << 30) - length)
        file.seek(0, os.SEEK_END)
        file.write(data[-length:])
    started = time.process_time()
    with pytest.raises(CheckpointCorrupted, match=r"\.metadata.* bytes"):
        dcp_engine.verify(tmp_path / "c")
    assert time.process_time() - started < 5


@pytest.mark.parametrize("name", [".metadata", "manifest.json"])
def test_files_with_holes_do_not_vouch_for_one_another(tmp_path: Path, name: str) -> None:
    """E-S3: what describes a checkpoint is no larger than what it describes, which may be a hole as well."""
    folder = tmp_path / "c"
    if name == ".metadata":
        dcp.save(STATE, checkpoint_id=folder, no_dist=True)
    else:
        dcp_engine.save(STATE, folder)
    (path,) = folder.rglob(name)
    end = path.read_bytes()[-1:]
    with path.open("r+b") as file:
        file.truncate(1 << 30)
        file.seek(-1, os.SEEK_END)
        file.write(end)
    with (path.parent / "__7_7.distcp").open("wb") as file:
        file.truncate(2 << 30)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointCorrupted, match="hole"):
            dcp_engine.inspect(folder)
        # The room that is asked for counts here, though none of it is touched.
        assert tracemalloc.get_traced_memory()[1] < (1 << 30) + (128 << 20)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["o.a", "w"])
def test_an_entry_in_a_hole_takes_no_memory(tmp_path: Path, name: str) -> None:
    """E-S3: nothing but the store says how large an object may be, and a file with a hole has any size."""
    size = 300 << 20
    state = {"w": torch.zeros(4 << 20), "o": {"a": [1, 2]}}
    dcp.save(state, checkpoint_id=tmp_path, no_dist=True)
    with (tmp_path / "__7_7.distcp").open("wb") as file:
        file.truncate(size)
    stored = pickle.loads((tmp_path / layout.METADATA).read_bytes())
    (index,) = (index for index in stored.storage_data if index.fqn == name)
    place = stored.storage_data[index]
    stored.storage_data[index] = dataclasses.replace(place, relative_path="__7_7.distcp", offset=0, length=size)
    (tmp_path / layout.METADATA).write_bytes(pickle.dumps(stored))
    for look in (dcp_engine.verify, lambda url: dcp_engine.load(state, url)):
        tracemalloc.start()
        try:
            with pytest.raises(CheckpointCorrupted, match="hole"):
                look(tmp_path)
            assert tracemalloc.get_traced_memory()[1] < size // 4
        finally:
            tracemalloc.stop()


def test_digests_in_a_hole_take_no_memory(tmp_path: Path) -> None:
    """E-S3: a sidecar is as large as the files ask for, which may be holes as well."""
    dcp_engine.save(STATE, tmp_path)
    size = 1 << 41
    (folder,) = tmp_path.glob("data-*")
    document = json.loads((folder / "manifest.json").read_bytes())
    document["files"][0]["size"] = size
    for file, length in (
        (document["files"][0]["path"], size),
        (f"{folder.name}/blocks.crc32c", size // layout.BLOCK * 4),
    ):
        os.truncate(tmp_path / file, length)
    changed = json.dumps(document).encode()
    (folder / "manifest.json").write_bytes(changed)
    data = (tmp_path / layout.METADATA).read_bytes()
    trailer, length = layout.parse_trailer(data)
    assert trailer
    sealed = dataclasses.replace(trailer, sha256=hashlib.sha256(changed).hexdigest())
    (tmp_path / layout.METADATA).write_bytes(data[:-length] + sealed.encode())
    tracemalloc.start()
    try:
        for look in (dcp_engine.verify, lambda url: dcp_engine.load({"w": torch.zeros(4, 3)}, url)):
            with pytest.raises(CheckpointCorrupted, match="hole"):
                look(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


def shared_path(metadata: Any) -> None:
    path = ("a" * 20_000,)
    for number in range(3000):
        metadata.state_dict_metadata[f"n{number}"] = BytesStorageMetadata()
        metadata.planner_data[f"n{number}"] = path


def shared_sizes(metadata: Any) -> None:
    sizes = torch.Size([1 << 62] * 64)
    place = next(iter(metadata.storage_data.values()))
    offsets = [torch.Size([number]) for number in range(10_000)]
    metadata.state_dict_metadata["w"].chunks[:] = [ChunkStorageMetadata(offset, sizes) for offset in offsets]
    metadata.storage_data = {MetadataIndex("w", offset): place for offset in offsets}


@pytest.mark.parametrize("share", [pytest.param(shared_path, id="E-S1 paths"), pytest.param(shared_sizes, id="sizes")])
def test_what_a_pickle_names_once_does_not_stand_everywhere(tmp_path: Path, share: Any) -> None:
    dcp.save(STATE, checkpoint_id=tmp_path, no_dist=True)
    metadata = pickle.loads((tmp_path / layout.METADATA).read_bytes())
    share(metadata)
    with pytest.raises(sandbox.Harmful, match=r"far more (than|memory)"):
        sandbox.manifest_of(pickle.dumps(metadata))


@pytest.mark.parametrize("keep", [timedelta.max, timedelta(days=3_000_000), timedelta(seconds=8e13), timedelta.min])
def test_no_time_to_keep_holds_up_what_is_due(keep: timedelta) -> None:
    """E-M4: a tombstone may say any time; the others go all the same."""
    now = datetime.now(UTC)
    odd, old = "a" * 32, "b" * 32
    stones = [
        Tombstone(f"replaced/{odd}.{odd}", odd, now, keep),
        Tombstone(f"replaced/{old}.{odd}", old, now - timedelta(days=1), timedelta(hours=1)),
    ]
    assert old in replaced.due(stones, Live("c" * 32), now)
    assert (odd in replaced.due(stones, Live("c" * 32), now)) == (keep < timedelta(0))


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOSPC])
def test_a_tombstone_that_fails_leaves_no_doubt_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """E-M4: no write of `.metadata` was tried: the save is not committed, for sure, and leaves nothing."""
    dcp_engine.save(STATE, tmp_path)
    before = sorted(path.name for path in tmp_path.rglob("*"))
    create = local_store.LocalStore.create

    def failing(self: local_store.LocalStore, path: str, data: bytes) -> None:
        if path.startswith(layout.REPLACED):
            raise OSError(code, os.strerror(code), path)
        create(self, path, data)

    monkeypatch.setattr(local_store.LocalStore, "create", failing)
    with pytest.raises(EngineError) as raised:
        dcp_engine.save(STATE, tmp_path, overwrite=True, keep_replaced=timedelta(hours=1))
    assert not raised.value.commit_unknown
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_what_is_held_by_many_ways_is_taken_apart_once() -> None:
    value: object = {"a": 1.5}
    other: object = {"a": 1.5}
    for _ in range(60):
        value, other = [value, value], [other, other]
    assert fingerprint.of_object(value) == fingerprint.of_object(other)
    assert fingerprint.of_object(value) != fingerprint.of_object([value, other, 1])


def test_parts_that_are_made_on_the_way_are_not_taken_for_one_another() -> None:
    """An id that is free again belongs to the next part."""
    first = [datetime(2026, 11, day, tzinfo=UTC) for day in range(1, 20)]
    second = [*first[:-1], datetime(2026, 11, 30, tzinfo=UTC)]
    assert fingerprint.of_object(first) != fingerprint.of_object(second)


def test_a_tensor_has_not_far_more_bytes_than_values(tmp_path: Path) -> None:
    """E-S3: a file with a hole holds any number of bytes, which would all be read to decode twelve values."""
    dcp.save(STATE, checkpoint_id=tmp_path, no_dist=True)
    with (tmp_path / "__7_7.distcp").open("wb") as file:
        file.truncate(1 << 40)
    metadata = pickle.loads((tmp_path / layout.METADATA).read_bytes())
    (index,) = (index for index in metadata.storage_data if index.fqn == "w")
    place = metadata.storage_data[index]
    metadata.storage_data[index] = dataclasses.replace(place, relative_path="__7_7.distcp", offset=0, length=1 << 40)
    (tmp_path / layout.METADATA).write_bytes(pickle.dumps(metadata))
    for look in (dcp_engine.inspect, dcp_engine.verify, lambda url: dcp_engine.load({"w": torch.zeros(4, 3)}, url)):
        with pytest.raises(CheckpointCorrupted, match="far more bytes than values"):
            look(tmp_path)


def test_folders_in_folders_hold_nobody_up(tmp_path: Path) -> None:
    """E-C1: whoever may write there may make a thousand, one in the other; no save makes any."""
    dcp_engine.save(STATE, tmp_path / "c")
    (top,) = (tmp_path / "c").glob("data-*")
    folder = os.open(top, os.O_RDONLY)
    for _ in range(1100):
        os.mkdir("a", dir_fd=folder)
        inner = os.open("a", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    try:
        assert len(list(folders.walk(tmp_path / "c"))) == 4
        dcp_engine.verify(tmp_path / "c")
    finally:
        subprocess.run(["rm", "-rf", str(top / "a")], check=True)


def test_entries_beyond_number_cost_what_they_weigh() -> None:
    """E-S1: 200,000 entries of nothing are 10 MB; passes of the collector over all of them took most of the time."""
    document = json.loads(manifest.Manifest(save_id="a" * 32, block_size=layout.BLOCK).encode())
    document["tensors"] = {str(n): {"dtype": "float32", "shape": [0], "chunks": []} for n in range(200_000)}
    encoded = json.dumps(document, separators=(",", ":")).encode()
    passes: list[int] = []

    def count(phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            passes.append(info["generation"])

    gc.collect()
    gc.callbacks.append(count)
    try:
        found = manifest.Manifest.decode(encoded, save_id="a" * 32)
        found.check()
        metadata.of(found)
    finally:
        gc.callbacks.remove(count)
    assert passes.count(2) <= 3  # of all threads together; `make bench-reading` prints the time
