"""Programs that hard-wire the writers of stock DCP, and save through the engine nonetheless."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import SerializationFormat
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

import dcp_engine
from dcp_engine.errors import CheckpointExists, CheckpointNotFound
from engine_programs import differences, sharded_state
from rank_group import run_ranks, values

pytestmark = [
    pytest.mark.tier("ranks"),
    # What stays torch's is called with no_dist by one process.
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning"),
]


def of_the_engine(folder: Path) -> bool:
    """Return whether the engine saved there: torch gives no id to a save."""
    info = dcp_engine.find(folder)
    assert info is not None
    return bool(info.save_id)


def hard_wired(_rank: int, folder: str) -> list[str]:
    """Save and load as accelerate and Lightning do."""
    found = sharded_state(zero=True)
    with dcp_engine.patched_dcp():
        dcp.save(state_dict=sharded_state(3), storage_writer=FileSystemWriter(folder), planner=DefaultSavePlanner())
        dcp.load(state_dict=found, storage_reader=FileSystemReader(folder))
    return differences(found, 3)


def test_ranks_save_and_load_by_the_engine(tmp_path: Path) -> None:
    assert values(run_ranks(2, hard_wired, str(tmp_path))) == [[], []]
    assert of_the_engine(tmp_path)


def state(value: float = 0) -> dict[str, Any]:
    return {"w": torch.full((5,), float(value))}


def by_id(folder: Path, value: float) -> Any:
    return dcp.save(state(value), checkpoint_id=folder, no_dist=True)


def by_writer(folder: Path, value: float) -> Any:
    return dcp.save(state(value), storage_writer=FileSystemWriter(folder), no_dist=True)


def by_both(folder: Path, value: float) -> Any:
    writer = FileSystemWriter(folder / "elsewhere")
    return dcp.save(state(value), checkpoint_id=folder, storage_writer=writer, no_dist=True)


def in_background(folder: Path, value: float) -> Any:
    future = dcp.async_save(state(value), checkpoint_id=folder, no_dist=True)
    assert isinstance(future, Future)
    return future.result(60)


def imported_late(folder: Path, value: float) -> Any:
    """As Lightning imports it: in the function that saves."""
    from torch.distributed.checkpoint.state_dict_saver import save

    return save(state(value), checkpoint_id=folder, no_dist=True)


@pytest.mark.parametrize("call", [by_id, by_writer, by_both, in_background, imported_late])
def test_a_call_that_names_a_place_alone_is_taken_over(tmp_path: Path, call: Any) -> None:
    found = state()
    with dcp_engine.patched_dcp():
        info = call(tmp_path / "run", 1)
        call(tmp_path / "run", 2)
        dcp.load(found, checkpoint_id=tmp_path / "run", no_dist=True)
    assert found["w"][0] == 2
    assert of_the_engine(tmp_path / "run")
    assert info.save_id
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


class OfOnesOwn(FileSystemWriter):
    """A writer that may do anything to the bytes."""


@pytest.mark.parametrize(
    "writer",
    [
        pytest.param(OfOnesOwn, id="a subclass"),
        pytest.param(
            lambda path: FileSystemWriter(path, serialization_format=SerializationFormat.SAFETENSORS),
            id="another format",
        ),
        pytest.param(dcp_engine.CheckpointWriter, id="of the engine"),
    ],
)
def test_a_writer_that_is_more_than_a_place_is_torchs(tmp_path: Path, writer: Any) -> None:
    with dcp_engine.patched_dcp(url_of=lambda _: tmp_path / "not here"):
        dcp.save(state(1), storage_writer=writer(tmp_path / "run"), no_dist=True)
    assert [each.name for each in tmp_path.iterdir()] == ["run"]


def test_a_save_replaces_where_the_program_says_so(tmp_path: Path) -> None:
    with dcp_engine.patched_dcp():
        by_id(tmp_path, 1)
        with pytest.raises(CheckpointExists):
            dcp.save(state(2), storage_writer=FileSystemWriter(tmp_path, overwrite=False), no_dist=True)
        by_id(tmp_path, 3)
    with dcp_engine.patched_dcp(overwrite=False), pytest.raises(CheckpointExists):
        by_id(tmp_path, 4)
    found = state()
    dcp_engine.load(found, tmp_path)
    assert found["w"][0] == 3


def test_a_place_is_mapped_and_a_url_is_whole_again(tmp_path: Path) -> None:
    """A FileSystemWriter keeps s3://bucket/run as the path s3:/bucket/run."""
    named: list[str] = []

    def url_of(place: str) -> Path:
        named.append(place)
        return tmp_path / place.rpartition("/")[2]

    with dcp_engine.patched_dcp(url_of=url_of):
        dcp.save(state(1), storage_writer=FileSystemWriter("s3://bucket/a"), no_dist=True)
        dcp.save(state(1), checkpoint_id="s3://bucket/b", no_dist=True)
        dcp.load(state(), storage_reader=FileSystemReader("s3://bucket/a"), no_dist=True)
    assert named == ["s3://bucket/a", "s3://bucket/b", "s3://bucket/a"]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["a", "b"]


def test_options_go_to_each_call(tmp_path: Path) -> None:
    with dcp_engine.patched_dcp(save_options={"step": 7}, load_options={"check": False}):
        by_id(tmp_path, 1)
        dcp.load(state(), checkpoint_id=tmp_path, no_dist=True)
    info = dcp_engine.find(tmp_path)
    assert info is not None
    assert info.step == 7


def test_who_brings_a_stager_is_told_when_the_state_may_change(tmp_path: Path) -> None:
    with dcp_engine.patched_dcp():
        stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=False, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=False
            )
        )
        saving = dcp.async_save(state(1), checkpoint_id=tmp_path, async_stager=stager, no_dist=True)
        stager.close()
        assert isinstance(saving, AsyncSaveResponse)
        assert saving.staging_completion.done()
        called: list[bool] = []
        saving.upload_completion.add_done_callback(lambda future: called.append(future.done()))
        saving.upload_completion.result(60)
        assert saving.upload_completion.exception() is None
    assert of_the_engine(tmp_path)


def test_a_background_save_that_fails_is_told_by_its_future(tmp_path: Path) -> None:
    with dcp_engine.patched_dcp(overwrite=False):
        by_id(tmp_path, 1)
        future = dcp.async_save(state(2), checkpoint_id=tmp_path, no_dist=True)
        assert isinstance(future, Future)
        assert isinstance(future.exception(60), CheckpointExists)
        with pytest.raises(CheckpointExists):
            future.result(60)


def test_what_was_there_before_is_there_after(tmp_path: Path) -> None:
    before = (dcp.save, dcp.async_save, dcp.load, state_dict_saver.save, state_dict_loader.load)

    def outer_block() -> None:
        with dcp_engine.patched_dcp(), dcp_engine.patched_dcp():
            dcp.load(state(), checkpoint_id=tmp_path, no_dist=True)

    with pytest.raises(CheckpointNotFound):
        outer_block()
    assert (dcp.save, dcp.async_save, dcp.load, state_dict_saver.save, state_dict_loader.load) == before
    by_id(tmp_path, 1)
    assert not of_the_engine(tmp_path)


def test_blocks_that_overlap_leave_nothing_behind(tmp_path: Path) -> None:
    """As in two threads: the one that began first ends first."""
    before = (dcp.save, dcp.load, state_dict_saver.async_save)
    first = dcp_engine.patched_dcp(url_of=lambda _: tmp_path / "first")
    second = dcp_engine.patched_dcp(url_of=lambda _: tmp_path / "second")
    first.__enter__()
    second.__enter__()
    kept = dcp.save
    first.__exit__(None, None, None)
    by_id(tmp_path / "named", 1)
    assert of_the_engine(tmp_path / "second")
    second.__exit__(None, None, None)
    assert (dcp.save, dcp.load, state_dict_saver.async_save) == before
    kept(state(1), checkpoint_id=tmp_path / "named", no_dist=True)
    assert not of_the_engine(tmp_path / "named"), "kept beyond the block"
