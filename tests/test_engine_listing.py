"""The listing of a run: what is committed under its prefix, now, and which of that is whole."""

import logging
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest
import torch
import torch.distributed.checkpoint as dcp

import dcp_engine
import s3_server
import versitygw
from dcp_contract.retention import Retained, Retention, judge
from dcp_engine.errors import StorageUnavailable
from dcp_engine.format import layout
from dcp_engine.stores.opening import open_store
from engine_places import Place
from versitygw import Gateway

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]

HOUR: Final = timedelta(hours=1)
OTHER: Final = "f" * 32


@pytest.fixture(params=["file", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        server: s3_server.S3Server = request.getfixturevalue("s3")
        return Place(server.url(f"{tmp_path.name}/run"), server.options)
    return Place(f"memory://{tmp_path.name}/run" if request.param == "memory" else str(tmp_path / "run"), None)


def test_a_run_is_listed_newest_first_and_only_what_is_committed(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    saved = {step: place.at(f"step-{step}").save(step, step=step) for step in (9, 100, 20)}
    place.at("step-300").put(f"data-{OTHER}/__0_0.distcp")  # a save on its way
    place.at("step-400").put(layout.METADATA, b"cut of")
    place.at("step-5x").save(5)
    place.at("other").save(6)
    place.at("step-7/step-8").save(8)
    place.put("step-3", b"a file")
    before = datetime.now(UTC) + timedelta(minutes=1)
    found = dcp_engine.list_checkpoints(place.url, storage_options=place.options)
    assert [(each.step, each.save_id) for each in found] == [(step, saved[step]) for step in (100, 20, 9)]
    assert [each.url for each in found] == [f"{place.url}/step-{step}" for step in (100, 20, 9)]
    assert all(each.created_time and timedelta(0) < before - each.created_time < HOUR for each in found)
    assert "step-400 is passed over" in caplog.text
    assert place.latest() == 100


def test_nothing_there_is_no_error(place: Place) -> None:
    assert place.listed() == []
    assert place.latest() is None


def test_a_bucket_that_is_not_there_is_one(s3: s3_server.S3Server) -> None:
    """Else a typo would begin a training anew."""
    for ask in (dcp_engine.list_checkpoints, dcp_engine.latest):
        with pytest.raises(StorageUnavailable):
            ask("s3://there-is-none/run", storage_options=s3.options)


def test_the_newest_is_taken_past_any_cache(place: Place) -> None:
    """Another process saves and removes."""
    assert place.listed() == []
    first = place.at("step-1").save(1)
    assert (place.listed(), place.latest()) == ([1], 1)
    place.at("step-2").save(2)
    place.at("step-1").delete(first)
    assert (place.listed(), place.latest()) == ([2], 2)


@pytest.mark.parametrize("harm", ["manifest", "data gone", "data short", "trailer"])
def test_the_latest_passes_over_what_is_damaged(place: Place, harm: str, caplog: pytest.LogCaptureFixture) -> None:
    place.at("step-1").save(1)
    save_id = place.at("step-2").save(2)
    store = open_store(place.at("step-2").url, place.options)
    path = {"manifest": layout.manifest_path(save_id), "trailer": layout.METADATA}.get(
        harm, layout.data_path(save_id, 0, 0)
    )
    data = store.read(path).data
    store.delete([path])
    if harm != "data gone":
        store.write(path, [data[:-7]], part_size=1 << 20, parallel=1)
    with caplog.at_level(logging.WARNING):
        assert place.latest() == 1
    assert "step-2 is passed over" in caplog.text


def test_the_latest_may_be_a_stock_checkpoint(tmp_path: Path) -> None:
    Place(str(tmp_path), None).at("step-1").save(1)
    dcp.save({"w": torch.ones(9)}, checkpoint_id=tmp_path / "step-2", no_dist=True)
    assert Place(str(tmp_path), None).latest() == 2
    next((tmp_path / "step-2").glob("*.distcp")).unlink()
    assert Place(str(tmp_path), None).latest() == 1


@pytest.fixture(scope="module")
def gateway() -> Iterator[Gateway]:
    with versitygw.running() as gateway:
        yield gateway


@pytest.mark.tier("faults")
def test_no_data_file_is_listed(gateway: Gateway, tmp_path: Path) -> None:
    """300 checkpoints of 10 files: one listing, and a read for each.

    A listing of all takes a request for each thousand files, one after the other: 4 here, 3000 for files by 10,000.
    """
    place = Place(gateway.server.url(tmp_path.name), gateway.server.options)
    place.at("step-0").save(0)
    folder = gateway.folder / tmp_path.name
    body = (folder / "step-0" / layout.METADATA).read_bytes()
    for step in range(1, 300):
        data = folder / f"step-{step}" / f"data-{OTHER}"
        data.mkdir(parents=True)
        (data.parent / layout.METADATA).write_bytes(body)
        for rank in range(9):
            (data / f"__{rank}_0.distcp").touch()
    before = len(gateway.requests())
    assert place.listed() == [*range(299, -1, -1)]
    asked = Counter(request.operation for request in gateway.requests()[before:])
    assert asked == {"s3_ListObjectsV2": 1, "s3_GetObject": 300}


@pytest.mark.tier("faults")
def test_more_folders_than_a_page_holds_are_all_listed(gateway: Gateway, tmp_path: Path) -> None:
    for step in range(1001):
        folder = gateway.folder / tmp_path.name / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "x").touch()
    store = open_store(gateway.server.url(tmp_path.name), gateway.server.options)
    assert len(list(store.folders())) == 1001


def test_a_run_is_kept_by_rule(place: Place) -> None:
    """What a listing says is what a retention asks for, and what a removal takes."""
    for step in (10, 20, 30, 40, 50):
        place.at(f"step-{step}").save(step)
    listed = dcp_engine.list_checkpoints(place.url, storage_options=place.options)
    run = [Retained(url=each.url, save_id=each.save_id, step=each.step, time=each.created_time) for each in listed]
    for verdict in judge(run, Retention(last=2, every_steps=20), datetime.now(UTC)):
        if not verdict.kept:
            dcp_engine.delete(verdict.checkpoint.url, verdict.checkpoint.save_id, storage_options=place.options)
    assert place.listed() == [50, 40, 20]


def test_a_link_in_the_prefix_is_not_followed(tmp_path: Path) -> None:
    """Whoever may write there could plant one that leads to a stranger's files."""
    Place(str(tmp_path / "strangers"), None).save(1)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "step-1").symlink_to(tmp_path / "strangers")
    assert dcp_engine.list_checkpoints(tmp_path / "run") == []
