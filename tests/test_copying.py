"""`copy`: what arrives, what is left of a copy that was cut short, on files, S3 and memory."""

import json
import os
import signal
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader

import copy_programs
import dcp_engine
import s3_server
from copy_places import PAIRS, copied, damage, data, pair_of
from dcp_engine import failpoints
from dcp_engine.errors import (
    CheckpointCorrupted,
)
from dcp_engine.stores import server_copy
from dcp_engine.stores.opening import open_store
from engine_places import Place
from rank_processes import CONTEXT

pytestmark = [
    pytest.mark.tier("ranks"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.usefixtures("hooked"),
]

HOUR: Final = timedelta(hours=1)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Place, Place]:
    return pair_of(request, tmp_path)


# What arrives.


def test_a_copy_is_the_save_byte_for_byte(pair: tuple[Place, Place]) -> None:
    """Whatever names the save, or the digest of its manifest, names the copy."""
    source, destination = pair
    save_id = source.save(3, step=7)
    info = copied(source, destination)
    assert data(destination) == data(source)
    guard = open_store(destination.url, destination.options).guard("create")
    assert (info.save_id, info.step, info.url, info.conflict_guard) == (save_id, 7, destination.url, guard)
    found = dcp_engine.find(destination.url, storage_options=destination.options)
    assert found is not None
    assert found.manifest_digest == info.manifest_digest
    assert destination.load() == 3
    assert dcp_engine.verify(destination.url, storage_options=destination.options).save_id == save_id


def test_a_copy_of_what_stands_there_writes_nothing(pair: tuple[Place, Place]) -> None:
    source, destination = pair
    source.save(3)
    copied(source, destination)
    store = open_store(destination.url, destination.options)
    before = {entry.path: entry.modified for entry in store.list("")}
    inodes = {path: path.stat().st_ino for path in Path(destination.url).rglob("*")}
    info = copied(source, destination)
    assert info.verified == "1 file there already, by crc32c"
    assert {entry.path: entry.modified for entry in store.list("")} == before
    assert {path: path.stat().st_ino for path in Path(destination.url).rglob("*")} == inodes


def test_a_copy_back_leaves_the_save_alone_and_mends_what_is_damaged_of_it(pair: tuple[Place, Place]) -> None:
    source, destination = pair
    save_id = source.save(3)
    copied(source, destination)
    damage(source, f"data-{save_id}/__0_0.distcp")
    with pytest.raises(CheckpointCorrupted):
        copied(source, destination.at("other"))
    assert copied(source, destination).save_id == save_id
    assert destination.load() == 3, "what is good there was replaced by what is damaged"
    copied(destination, source)
    assert source.load() == 3


def test_a_checkpoint_by_stock_dcp_is_copied_as_one(tmp_path: Path) -> None:
    dcp.save({"w": torch.arange(1000)}, checkpoint_id=tmp_path / "source", no_dist=True)
    info = dcp_engine.copy(tmp_path / "source", tmp_path / "copy")
    assert info.verified == "1 file by size alone: a checkpoint by stock DCP has no digests"
    state = {"w": torch.zeros(1000, dtype=torch.int64)}
    dcp.load(state, storage_reader=FileSystemReader(tmp_path / "copy"), no_dist=True)
    assert torch.equal(state["w"], torch.arange(1000))
    assert info.save_id == ""


def test_files_beside_the_checkpoint_stay_behind(tmp_path: Path) -> None:
    source = Place(str(tmp_path / "source"), None)
    source.save(1)
    source.save(2, overwrite=True, keep_replaced=HOUR)
    source.put("notes.txt")
    dcp_engine.copy(source.url, tmp_path / "copy")
    assert len(Place(str(tmp_path / "copy"), None).files()) == 4


# What changes meanwhile.


def test_a_source_that_is_replaced_meanwhile_is_copied_as_it_is_then(tmp_path: Path) -> None:
    source, destination = Place(str(tmp_path / "source"), None), Place(str(tmp_path / "copy"), None)
    source.save(1)

    def hook(point: failpoints.Point) -> None:
        if point == "reading":
            failpoints.hook = None
            source.save(2, overwrite=True)

    failpoints.hook = hook
    copied(source, destination)
    assert destination.load() == 2


# A copy that was cut short.


@pytest.mark.parametrize("point", ["reading", "mid-part", "before manifest", "before commit", "after commit"])
@pytest.mark.parametrize("pair", [each for each in PAIRS if "memory" not in each], indirect=True)
def test_a_killed_copy_is_taken_up_again(pair: tuple[Place, Place], point: str) -> None:
    source, destination = pair
    source.save(1)
    given = (dict(os.environ), source.url, source.options, destination.url, destination.options, point, 1)
    killed = CONTEXT.Process(target=copy_programs.copy_until, args=given)
    killed.start()
    killed.join(60)
    native = source.url.startswith("s3:") and destination.url.startswith("s3:")
    if not (native and point == "reading"):  # the store copies by itself
        assert killed.exitcode == -signal.SIGKILL
        found = dcp_engine.find(destination.url, storage_options=destination.options)
        assert (found is not None) == (point == "after commit")
    copied(source, destination)
    assert data(destination) == data(source)


def test_a_file_that_no_copy_has_finished_is_written_anew(pair: tuple[Place, Place]) -> None:
    """Half a one, and one of the right size with other bytes, of which no copy of this save says that it is whole."""
    source, destination = pair
    path = f"data-{source.save(1)}/__0_0.distcp"
    whole = open_store(source.url, source.options).read(path).data
    for left in (whole[:100], whole[:-1] + b"?"):
        destination.put(path, left)
        copied(source, destination)
        assert destination.load() == 1
        destination.delete()


# How S3 copies by itself.


@pytest.mark.parametrize(
    ("answered", "said"),
    [
        (None, "1 file copied by the store, then read, by the crc32c of each block"),
        (0, "1 file by the crc32c of each block"),
    ],
    ids=["nothing", "something else"],
)
def test_a_store_that_answers_no_right_checksum_is_not_believed(
    answered: int | None, said: str, s3: s3_server.S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = (Place(s3.url(f"{tmp_path.name}/{name}"), s3.options) for name in ("source", "copy"))
    source.save(1)
    monkeypatch.setattr(server_copy, "_crc32c", lambda _: answered)
    assert copied(source, destination).verified == said
    assert destination.load() == 1
    assert copied(source, destination.at("unread"), verify=False).verified == "1 file by size alone"


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ({"ChecksumCRC32C": "bIkWNQ=="}, 0x6C891635),
        ({"ChecksumCRC32C": "bIkWNQ==", "ChecksumType": "FULL_OBJECT"}, 0x6C891635),
        ({"ChecksumCRC32C": "bIkWNQ==-3"}, None),
        ({"ChecksumCRC32C": "bIkWNQ==", "ChecksumType": "COMPOSITE"}, None),
        ({}, None),
    ],
)
def test_only_the_checksum_of_a_whole_object_counts(answer: dict[str, str], found: int | None) -> None:
    assert server_copy._crc32c(answer) == found


def test_the_command_copies_and_tells_what_was_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from dcp_worker.cli import app as cli

    source = Place(str(tmp_path / "source"), None)
    save_id = source.save(1)
    assert cli.run(["copy", source.url, str(tmp_path / "copy"), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["saveId"] == save_id
    assert cli.run(["copy", source.url, str(tmp_path / "other"), "--bandwidth", "100"]) == 0
    assert "1 file by the crc32c of each block" in " ".join(capsys.readouterr().out.split())
    Place(str(tmp_path / "taken"), None).save(2)
    assert cli.run(["copy", source.url, str(tmp_path / "taken")]) == 1
    assert "\nOverwriteConflict: Checkpoint already exists at " in capsys.readouterr().err
    assert cli.run(["copy", source.url, str(tmp_path / "taken"), "--overwrite", "--no-verify"]) == 0
