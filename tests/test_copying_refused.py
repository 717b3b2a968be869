"""`copy`: what is refused, before a byte moves, on the way, and at the commit; on files, S3 and memory."""

import os
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import torch
import torch.distributed.checkpoint as dcp

import dcp_engine
from copy_places import PAIRS, copied, damage, data, pair_of
from dcp_engine import failpoints
from dcp_engine.call_options import CopyOptions
from dcp_engine.commit import snapshot
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointExists,
    CheckpointNotFound,
    InvalidOption,
    StorageUnavailable,
)
from dcp_engine.stores.opening import open_store
from dcp_engine.transfer import block_digests
from dcp_engine.transfer.file_copies import FileCopies
from engine_places import SIZE, Place

pytestmark = [
    pytest.mark.tier("ranks"),
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
    pytest.mark.usefixtures("hooked"),
]

HOUR: Final = timedelta(hours=1)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Place, Place]:
    return pair_of(request, tmp_path)


# What is refused.


def test_another_checkpoint_at_the_destination_is_a_conflict(pair: tuple[Place, Place]) -> None:
    source, destination = pair
    source.save(1)
    held = destination.save(2)
    before = data(destination)
    with pytest.raises(CheckpointExists) as raised:
        copied(source, destination)
    assert raised.value.conflict is not None
    assert raised.value.conflict.save_id == held
    assert data(destination) == before


def test_with_overwrite_it_is_replaced_as_a_save_replaces_it(pair: tuple[Place, Place]) -> None:
    source, destination = pair
    save_id = source.save(1)
    held = destination.save(2)
    copied(source, destination, overwrite=True, keep_replaced=HOUR)
    assert destination.load() == 1
    assert f"replaced/{held}.{save_id}" in destination.files()
    copied(source, destination, overwrite=True)
    assert destination.load() == 1


def test_what_was_replaced_there_may_come_back(pair: tuple[Place, Place]) -> None:
    """Its data may be there still, and are on the list of what is to be removed."""
    source, destination = pair
    source.save(1)
    copied(source, destination)
    destination.save(2, overwrite=True, keep_replaced=HOUR)
    copied(source, destination, overwrite=True)
    dcp_engine.clean(destination.url, storage_options=destination.options, keep_replaced=timedelta(0))
    assert destination.load() == 1


@pytest.mark.parametrize("point", ["before manifest", "before commit"])
def test_what_comes_back_is_not_removed_on_the_way(pair: tuple[Place, Place], point: failpoints.Point) -> None:
    """Its tombstone goes before anything is copied: a clean-up that finds the tombstone would take its data."""
    source, destination = pair
    source.save(1)
    copied(source, destination)
    destination.save(2, overwrite=True, keep_replaced=HOUR)
    cleaned: list[str] = []

    def hook(now: failpoints.Point) -> None:
        if now == point:
            failpoints.hook = None
            options = destination.options
            cleaned.extend(dcp_engine.clean(destination.url, storage_options=options, keep_replaced=timedelta(0)))

    failpoints.hook = hook
    copied(source, destination, overwrite=True)
    assert failpoints.hook is None, "it was cleaned"
    assert cleaned == []
    assert destination.load() == 1


def test_a_commit_by_another_save_meanwhile_is_a_conflict_and_leaves_nothing(pair: tuple[Place, Place]) -> None:
    source, destination = pair
    source.save(1)

    def hook(point: failpoints.Point) -> None:
        if point == "before commit":
            failpoints.hook = None
            destination.save(2)

    failpoints.hook = hook
    with pytest.raises(CheckpointExists):
        copied(source, destination)
    assert destination.load() == 2
    assert len(destination.files()) == 4


def test_another_copy_of_the_save_that_is_first_is_as_good(pair: tuple[Place, Place]) -> None:
    """Each may replace what is there: to replace the other's commit would remove the data of both."""
    source, destination = pair
    source.save(1)
    destination.save(2)

    def hook(point: failpoints.Point) -> None:
        if point == "before commit":
            failpoints.hook = None
            copied(source, destination, overwrite=True, keep_replaced=timedelta(0))

    failpoints.hook = hook
    copied(source, destination, overwrite=True, keep_replaced=timedelta(0))
    assert destination.load() == 1


@pytest.mark.parametrize("verify", [True, False])
def test_a_damaged_source_is_refused_by_file_and_block(pair: tuple[Place, Place], *, verify: bool) -> None:
    source, destination = pair
    save_id = source.save(1)
    damage(source, f"data-{save_id}/__0_0.distcp")
    if not verify:
        assert copied(source, destination, verify=False).verified == "1 file by size alone"
        return
    with pytest.raises(CheckpointCorrupted, match=r"__0_0\.distcp: the block at byte 65536 .* It holds w"):
        copied(source, destination)
    assert destination.files() == []


@pytest.mark.adversary
def test_a_damaged_copy_is_left_as_it_is_where_the_source_is_damaged_too(pair: tuple[Place, Place]) -> None:
    """Such as where both are one place by two names that nobody can tell: it may be all that is left of the data."""
    source, destination = pair
    save_id = source.save(1)
    copied(source, destination)
    for place, at in ((source, 5), (destination, SIZE)):
        damage(place, f"data-{save_id}/__0_0.distcp", at)
    before = data(destination)
    with pytest.raises(CheckpointCorrupted, match=r"__0_0\.distcp: the block at byte 0"):
        copied(source, destination)
    assert data(destination) == before


@pytest.mark.adversary
def test_what_another_copy_has_finished_since_the_look_is_not_written_anew(tmp_path: Path) -> None:
    """That one may have committed it by now: a reader would find a part, and after a kill nothing."""
    source, destination = Place(str(tmp_path / "source"), None), Place(str(tmp_path / "copy"), None)
    source.save(1)
    copied(source, destination)
    stores = open_store(source.url), open_store(destination.url)
    manifest = snapshot.read(stores[0]).manifest(source.url)
    (file,) = manifest.files
    before = Path(destination.url, file.path).stat().st_ino
    copies = FileCopies(*stores, manifest, CopyOptions(), None)
    copies.run([file], {file.path: 5}, block_digests.by_file(stores[0], manifest))
    assert (Path(destination.url, file.path).stat().st_ino, copies.tally.kept) == (before, 1)


DAMAGES: Final[dict[str, tuple[str, str]]] = {
    "data file gone": ("__0_0.distcp", "is missing"),
    "manifest": ("manifest.json", "does not have the sha256"),
    "digests": ("blocks.crc32c", "does not agree with the manifest"),
}


@pytest.mark.parametrize(("name", "said"), DAMAGES.values(), ids=DAMAGES)
def test_any_damaged_file_of_the_source_is_refused(name: str, said: str, tmp_path: Path) -> None:
    source, destination = Place(str(tmp_path / "source"), None), Place(str(tmp_path / "copy"), None)
    path = f"data-{source.save(1)}/{name}"
    if "gone" in said or "missing" in said:
        open_store(source.url).delete([path])
    else:
        damage(source, path, at=2)
    with pytest.raises(CheckpointCorrupted, match=said):
        copied(source, destination)
    assert destination.files() == []


def test_a_damaged_pickle_is_refused(tmp_path: Path) -> None:
    """Only stock readers look at it: no load of ours would ever tell."""
    source = Place(str(tmp_path / "source"), None)
    source.save(1)
    damage(source, ".metadata", at=40)
    with pytest.raises(CheckpointCorrupted, match=r"\.metadata: does not have the sha256"):
        dcp_engine.copy(source.url, tmp_path / "copy")


def test_a_stock_checkpoint_with_the_same_names_is_not_replaced_file_by_file(tmp_path: Path) -> None:
    for name in ("source", "copy"):
        dcp.save({"w": torch.arange(1000)}, checkpoint_id=tmp_path / name, no_dist=True)
    with pytest.raises(InvalidOption, match=r"__0_0\.distcp, which the copy has, too"):
        dcp_engine.copy(tmp_path / "source", tmp_path / "copy", overwrite=True)
    with pytest.raises(CheckpointExists):
        dcp_engine.copy(tmp_path / "source", tmp_path / "copy")


@pytest.mark.adversary
def test_a_stock_checkpoint_that_names_other_files_is_not_copied(tmp_path: Path) -> None:
    """What stands by such a name at the destination is somebody else's."""
    dcp.save({"w": torch.arange(1000)}, checkpoint_id=tmp_path / "source", no_dist=True)
    metadata = tmp_path / "source/.metadata"
    assert b"__0_0.distcp" in metadata.read_bytes()
    metadata.write_bytes(metadata.read_bytes().replace(b"__0_0.distcp", b"my_notes.txt"))
    (tmp_path / "source/__0_0.distcp").rename(tmp_path / "source/my_notes.txt")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy/my_notes.txt").write_text("mine")
    with pytest.raises(CheckpointCorrupted, match=r"names my_notes\.txt, which stock DCP does not write"):
        dcp_engine.copy(tmp_path / "source", tmp_path / "copy")
    assert (tmp_path / "copy/my_notes.txt").read_text() == "mine"


@pytest.mark.adversary
def test_a_stock_file_that_is_a_hole_is_not_copied(tmp_path: Path) -> None:
    """Else a few bytes would take days, and a disk."""
    dcp.save({"w": torch.arange(1000)}, checkpoint_id=tmp_path / "source", no_dist=True)
    os.truncate(tmp_path / "source/__0_0.distcp", 1 << 40)
    with pytest.raises(CheckpointCorrupted, match=r"__0_0\.distcp: has a hole"):
        dcp_engine.copy(tmp_path / "source", tmp_path / "copy")


@pytest.mark.adversary
def test_another_checkpoint_by_the_name_of_the_save_is_never_replaced(tmp_path: Path) -> None:
    """Its manifest differs: to write ours over it would leave neither."""
    source, destination = Place(str(tmp_path / "source"), None), Place(str(tmp_path / "copy"), None)
    source.save(1)
    copied(source, destination)
    metadata = Path(destination.url, ".metadata")
    head, _, trailer = metadata.read_bytes().rpartition(b'"sha256":"')
    metadata.write_bytes(head + b'"sha256":"' + bytes(reversed(trailer[:64])) + trailer[64:])
    before = data(destination)
    for overwrite in (False, True):
        with pytest.raises(CheckpointExists):
            copied(source, destination, overwrite=overwrite)
    assert data(destination) == before


def test_a_stock_checkpoint_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    dcp.save({"w": torch.arange(1000)}, checkpoint_id=tmp_path / "source", no_dist=True)

    def hook(point: failpoints.Point) -> None:
        if point == "reading":
            os.utime(tmp_path / "source/__0_0.distcp", (1, 1))

    failpoints.hook = hook
    with pytest.raises(CheckpointCorrupted, match="was changed while it was copied"):
        dcp_engine.copy(tmp_path / "source", tmp_path / "copy")
    assert not (tmp_path / "copy/.metadata").exists()


def test_what_can_not_be_is_said_before_a_byte_moves(tmp_path: Path) -> None:
    source = Place(str(tmp_path / "source"), None)
    with pytest.raises(CheckpointNotFound):
        dcp_engine.copy(source.url, tmp_path / "copy")
    source.save(1)
    with pytest.raises(InvalidOption, match="is the source itself"):
        dcp_engine.copy(source.url, f"file://{source.url}/")
    with pytest.raises(InvalidOption, match="bandwidth: 0 is no whole number"):
        dcp_engine.copy(source.url, tmp_path / "copy", bandwidth=0)
    assert not (tmp_path / "copy").exists()


def test_a_store_that_is_away_is_named(tmp_path: Path) -> None:
    """Both stores have files of the same names."""
    source = Place(str(tmp_path / "source"), None)
    source.save(1)
    options = {"endpoint_url": "http://127.0.0.1:1", "max_attempts": 1, "anon": True}
    with pytest.raises(StorageUnavailable, match=r"\(writing to s3://bucket/copy\)$"):
        dcp_engine.copy(source.url, "s3://bucket/copy", storage_options=options)
    with pytest.raises(StorageUnavailable, match=r"\(reading s3://bucket/source\)$"):
        dcp_engine.copy("s3://bucket/source", tmp_path / "copy", source_options=options)
