"""The faults of stock DCP over fsspec, and that the engine has none of them.

Each fault has a test marked `stock` that shows it on stock DCP, and one on the engine. When a new torch mends a fault,
its `stock` test fails and says so.
"""

import io
import os
import pickle
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter

import dcp_engine
import engine_programs as programs
import s3_server
import stock_dcp as dcp
from dcp_engine import failpoints
from dcp_engine.errors import CheckpointCorrupted, CheckpointExists, EngineError, StateMismatch, StorageFull
from faulty_fs import FaultyFileSystem
from rank_group import run_ranks, values

# Stock DCP warns of many things; they are not what is looked at here.
pytestmark = [pytest.mark.tier("faults"), pytest.mark.filterwarnings("ignore")]
stock = pytest.mark.stock


@pytest.fixture(autouse=True)
def sound() -> Iterator[None]:
    FaultyFileSystem.fail_name = ""
    FaultyFileSystem.seen.clear()
    yield
    FaultyFileSystem.fail_name = ""
    failpoints.hook = None


def state(value: float = 1.0, count: int = 8) -> dict[str, torch.Tensor]:
    return {f"t{number}": torch.full((5000,), value) for number in range(count)}


def zeros(count: int = 8) -> dict[str, torch.Tensor]:
    return state(0.0, count)


def stock_load(url: str, **options: Any) -> dict[str, torch.Tensor]:
    found = zeros()
    dcp.load(found, storage_reader=dcp.FsspecReader(url, **options))
    return found


class _Unreadable(dcp.DefaultSavePlanner):
    """A state whose last tensor can't be had."""

    def resolve_data(self, write_item: Any) -> Any:
        if write_item.index.fqn == "t7":
            raise ValueError("the last tensor can't be had")
        return super().resolve_data(write_item)


class _Crash(Exception):
    """Where a process would have died."""


# 1. An error in a writer thread.


@stock
def test_1_stock_commits_although_a_thread_failed(tmp_path: Path) -> None:
    FaultyFileSystem.fail_name = "__0_1"
    dcp.save(state(), storage_writer=dcp.FsspecWriter(f"faulty://{tmp_path}/c", thread_count=3))
    metadata = FileSystemReader(f"{tmp_path}/c").read_metadata()
    assert len(metadata.storage_data) < len(metadata.state_dict_metadata)


@pytest.mark.parametrize("store", ["faulty", "local"])
def test_1_engine_raises_and_commits_nothing(tmp_path: Path, store: str) -> None:
    if store == "faulty":
        FaultyFileSystem.fail_name = "__0_0"
    else:
        failpoints.hook = _fail_in_one_thread
    url = f"faulty://{tmp_path}/c" if store == "faulty" else f"{tmp_path}/c"
    with pytest.raises(StorageFull):
        dcp_engine.save({f"big{n}": torch.ones(6 << 20) for n in range(4)}, url)
    assert dcp_engine.find(url) is None
    assert not list(tmp_path.rglob("*.distcp"))


def _fail_in_one_thread(reached: str) -> None:
    if reached == "mid-part" and threading.current_thread().name.endswith("_1"):
        raise OSError(28, "No space left on device")


# 2. What a failed write leaves.


@stock
def test_2_stock_leaves_a_truncated_object(s3: s3_server.S3Server) -> None:
    url = s3.url("stock-2")
    with pytest.raises(BaseException, match="can't be had"):
        dcp.save(state(), planner=_Unreadable(), storage_writer=dcp.FsspecWriter(url, endpoint_url=s3.endpoint))
    assert any(key.endswith(".distcp") for key in s3.keys("stock-2"))


def test_2_engine_leaves_nothing(s3: s3_server.S3Server) -> None:
    big = {f"t{number}": torch.ones(1 << 20) for number in range(8)}
    with pytest.raises(EngineError, match="can't be had"):
        dcp_engine.save(big, s3.url("ours-2"), storage_options=s3.options, planner=_Unreadable())
    assert s3.keys("ours-2") == []
    assert s3.uploads("ours-2") == []


# 3. A crash in the middle of a replace.


class _CrashesBeforeCommit(dcp.FsspecWriter):
    def finish(self, *args: Any, **kwargs: Any) -> None:
        raise _Crash


@stock
def test_3_stock_loads_new_data_under_old_metadata(tmp_path: Path) -> None:
    dcp.save(state(1.0), storage_writer=dcp.FsspecWriter(str(tmp_path)))
    with pytest.raises(BaseException, match="_Crash"):
        dcp.save(state(2.0), storage_writer=_CrashesBeforeCommit(str(tmp_path)))
    assert stock_load(str(tmp_path))["t0"][0] == 2.0


def test_3_engine_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    dcp_engine.save(state(1.0), str(tmp_path))

    def crash(reached: str) -> None:
        if reached == "before commit":
            raise _Crash

    failpoints.hook = crash
    with pytest.raises(EngineError):
        dcp_engine.save(state(2.0), str(tmp_path), overwrite=True)
    found = zeros()
    dcp_engine.load(found, str(tmp_path))
    assert found["t0"][0] == 1.0


# 4. Two savers with overwrite=False.


@stock
def test_4_stock_lets_both_savers_succeed(tmp_path: Path) -> None:
    class Slow(dcp.FsspecWriter):
        def prepare_local_plan(self, plan: Any) -> Any:
            plan = super().prepare_local_plan(plan)
            dcp.save(state(2.0), storage_writer=dcp.FsspecWriter(str(tmp_path), overwrite=False))
            return plan

    dcp.save(state(1.0), storage_writer=Slow(str(tmp_path), overwrite=False))
    assert stock_load(str(tmp_path))["t0"][0] == 1.0  # and the other saver was told that it had saved


def test_4_engine_refuses_the_second(tmp_path: Path) -> None:
    winner: list[str] = []

    def other_saver(reached: str) -> None:
        if reached == "before commit":
            failpoints.hook = None
            winner.append(dcp_engine.save(state(2.0), str(tmp_path)).save_id)

    failpoints.hook = other_saver
    with pytest.raises(CheckpointExists) as caught:
        dcp_engine.save(state(1.0), str(tmp_path))
    assert caught.value.conflict is not None
    assert [caught.value.conflict.save_id] == winner


@stock
def test_4_stock_overlooks_a_checkpoint_behind_its_cache(s3: s3_server.S3Server) -> None:
    url = s3.url("stock-4/deep/checkpoint")
    writer = dcp.FsspecWriter(url, overwrite=False, endpoint_url=s3.endpoint)
    assert not writer.fs.exists(f"{url}/.metadata")
    dcp.save(state(), storage_writer=dcp.FsspecWriter(url, endpoint_url=s3.endpoint, skip_instance_cache=True))
    _s3fs(writer).dircache[f"{s3.bucket}/stock-4/deep/checkpoint"] = []
    dcp.save(state(2.0), storage_writer=writer)


def test_4_engine_looks_past_any_cache(s3: s3_server.S3Server) -> None:
    url = s3.url("ours-4/deep/checkpoint")
    writer = dcp_engine.CheckpointWriter(url, storage_options=s3.options)
    dcp_engine.save(state(), url, storage_options=s3.options)
    with pytest.raises(BaseException, match="already exists"):
        dcp.save(state(2.0), storage_writer=writer)


# 5. What happens without a word about overwrite.


@stock
def test_5_stock_replaces_unasked_and_refuses_with_a_base_exception(tmp_path: Path) -> None:
    dcp.save(state(1.0), storage_writer=dcp.FsspecWriter(str(tmp_path)))
    dcp.save(state(2.0), storage_writer=dcp.FsspecWriter(str(tmp_path)))
    with pytest.raises(BaseException, match="already exists") as caught:
        dcp.save(state(3.0), storage_writer=dcp.FsspecWriter(str(tmp_path), overwrite=False))
    assert not isinstance(caught.value, Exception)


def test_5_engine_refuses_unasked_with_an_exception_that_names_the_holder(tmp_path: Path) -> None:
    first = dcp_engine.save(state(1.0), str(tmp_path))
    with pytest.raises(CheckpointExists, match=first.save_id):
        dcp_engine.save(state(2.0), str(tmp_path))


# 6. The moment of the commit.


@stock
def test_6_stock_has_a_moment_without_metadata(tmp_path: Path) -> None:
    url = f"faulty://{tmp_path}/c"
    dcp.save(state(), storage_writer=dcp.FsspecWriter(url))
    FaultyFileSystem.seen.clear()
    dcp.save(state(), storage_writer=dcp.FsspecWriter(url))
    assert "rm .metadata not committed" in FaultyFileSystem.seen


def test_6_engine_is_committed_at_every_moment(tmp_path: Path) -> None:
    dcp_engine.save(state(), str(tmp_path))
    missing: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.is_set():
            if not (tmp_path / ".metadata").exists():
                missing.append(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for number in range(10):
        dcp_engine.save(state(float(number)), str(tmp_path), overwrite=True)
    stop.set()
    watcher.join()
    assert not missing


# 7. The storage options after a reset.


@stock
def test_7_stock_forgets_its_options(s3: s3_server.S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    writer = dcp.FsspecWriter(s3.url("stock-7/a"), endpoint_url=s3.endpoint, skip_instance_cache=True)
    writer.reset(s3.url("stock-7/b"))
    assert _s3fs(writer).client_kwargs.get("endpoint_url") != s3.endpoint
    assert _s3fs(writer).endpoint_url != s3.endpoint


def test_7_engine_keeps_its_options(s3: s3_server.S3Server) -> None:
    writer = dcp_engine.CheckpointWriter(s3.url("ours-7/a"), storage_options=s3.options)
    dcp.save(state(), checkpoint_id=s3.url("ours-7/b"), storage_writer=writer)
    assert dcp_engine.find(s3.url("ours-7/b"), storage_options=s3.options) is not None


def _s3fs(writer: dcp.FsspecWriter) -> Any:
    return writer.fs.fs  # type: ignore[attr-defined] # declared as its base, which has none


# 8. A crafted checkpoint.


class _Touch:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@stock
def test_8_stock_runs_code_of_a_crafted_metadata(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(_Touch(tmp_path / "ran")))
    with pytest.raises(BaseException, match=r".*"):
        stock_load(str(tmp_path))
    assert (tmp_path / "ran").exists()


@stock
def test_8_stock_runs_code_of_a_crafted_entry(tmp_path: Path) -> None:
    dcp.save({"x": _Touch(tmp_path / "ran")}, storage_writer=dcp.FsspecWriter(f"{tmp_path}/c"))
    dcp.load({"x": None}, storage_reader=dcp.FsspecReader(f"{tmp_path}/c"))
    assert (tmp_path / "ran").exists()


@pytest.mark.adversary
def test_8_engine_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(pickle.dumps(_Touch(tmp_path / "ran")))
    with pytest.raises(CheckpointCorrupted, match="allow-list"):
        dcp_engine.load(zeros(), str(tmp_path))
    with pytest.raises(CheckpointCorrupted, match="allow-list"):
        dcp_engine.verify(str(tmp_path))
    dcp.save({"x": _Touch(tmp_path / "ran")}, storage_writer=dcp.FsspecWriter(f"{tmp_path}/c"))
    with pytest.raises(StateMismatch, match=r"mkdir.*allow-list"):
        dcp_engine.load({"x": None}, f"{tmp_path}/c")
    with pytest.raises(BaseException, match="allow-list"):
        dcp.load({"x": None}, storage_reader=dcp_engine.CheckpointReader(f"{tmp_path}/c"))
    assert not (tmp_path / "ran").exists()


# 9. Bytes that changed; files of an earlier, wider save.


def _flip(folder: Path) -> None:
    file = max(folder.rglob("*.distcp"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) * 9 // 16] ^= 64
    file.write_bytes(data)


@stock
def test_9_stock_loads_a_flipped_byte_without_a_word(tmp_path: Path) -> None:
    dcp.save(state(), storage_writer=dcp.FsspecWriter(str(tmp_path)))
    _flip(tmp_path)
    found = stock_load(str(tmp_path))
    assert any(not tensor.equal(torch.ones(5000)) for tensor in found.values())


def test_9_engine_names_the_tensor_of_a_flipped_byte(tmp_path: Path) -> None:
    dcp_engine.save(state(), str(tmp_path))
    _flip(tmp_path)
    with pytest.raises(CheckpointCorrupted, match=r"It holds t\d"):
        dcp_engine.load(zeros(), str(tmp_path))


@stock
def test_9_stock_keeps_files_of_a_wider_save(tmp_path: Path) -> None:
    values(run_ranks(3, programs.stock_save, str(tmp_path)))
    values(run_ranks(1, programs.stock_save, str(tmp_path)))
    assert (tmp_path / "__2_0.distcp").exists()


def test_9_engine_removes_what_it_replaced_even_if_stock_saved_it(tmp_path: Path) -> None:
    values(run_ranks(3, programs.stock_save, str(tmp_path)))
    values(run_ranks(1, programs.save_args, str(tmp_path), None, 1, {"overwrite": True}))
    files = [path.relative_to(tmp_path).parts[-1] for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(files) == [".metadata", "__0_0.distcp", "blocks.crc32c", "manifest.json"]


# 10. What a save does to the rest of the machine.


@stock
def test_10_stock_syncs_the_node_or_does_not_sync_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Up to torch 2.13 os.sync() for what has no descriptor; since then a warning, and nothing is synced."""
    synced: list[int] = []
    monkeypatch.setattr(os, "sync", lambda: synced.append(1))
    dcp.save(state(), storage_writer=dcp.FsspecWriter(f"memory://{tmp_path.name}"))
    assert synced or any("fsync not supported" in str(warning.message) for warning in recwarn)


def test_10_engine_syncs_its_files_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    fsync = os.fsync
    monkeypatch.setattr(os, "sync", lambda: calls.append("sync"))

    def counted(descriptor: int) -> None:
        calls.append("fsync")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    dcp_engine.save(state(), str(tmp_path))
    assert "sync" not in calls
    assert calls.count("fsync") >= 4


# 11. Memory of a save.


@stock
def test_11_stock_keeps_a_copy_of_every_tensor_until_its_file_ends(tmp_path: Path) -> None:
    assert values(run_ranks(1, programs.peak_of_a_save, str(tmp_path / "c"), "stock"))[0] > 450 << 20


def test_11_engine_holds_pieces_only(tmp_path: Path) -> None:
    assert values(run_ranks(1, programs.peak_of_a_save, str(tmp_path / "c"), "engine"))[0] < 160 << 20


# 12. Bytes fetched for a part of a tensor.


@stock
def test_12_stock_fetches_whole_chunks_for_a_part(tmp_path: Path) -> None:
    needed, fetched = _fetched_for_a_quarter(tmp_path, "stock")
    assert fetched > 3 * needed


def test_12_engine_fetches_what_it_needs(tmp_path: Path) -> None:
    needed, fetched = _fetched_for_a_quarter(tmp_path, "engine")
    assert fetched <= 1.05 * needed


def _fetched_for_a_quarter(folder: Path, system: str) -> tuple[int, int]:
    """Save by one rank, load by four, count the bytes of one of them."""
    url = str(folder / "c")
    programs.save_wide(0, url, system)
    fetched = values(run_ranks(4, programs.bytes_of_a_load, url, system))
    needed = 64 << 20
    return needed // 4, max(fetched)


# 13. CPU for a CRC that no reader looks at.


@stock
def test_13_stock_computes_the_zip_crc_of_every_payload(tmp_path: Path) -> None:
    dcp.save({"x": torch.ones(5000)}, storage_writer=FileSystemWriter(tmp_path))
    assert _payload_crc((tmp_path / "__0_0.distcp").read_bytes()) != 0


def test_13_engine_leaves_it_out_and_covers_the_payload_otherwise(tmp_path: Path) -> None:
    dcp_engine.save({"x": torch.ones(5000)}, str(tmp_path))
    assert _payload_crc(next(tmp_path.rglob("*.distcp")).read_bytes()) == 0
    assert dcp_engine.inspect(str(tmp_path)).files[0].crc32c


def _payload_crc(data: bytes) -> int:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.getinfo("archive/data/0").CRC


# 14. A seek from the end.


@stock
def test_14_stock_seeks_from_the_end_in_the_wrong_direction() -> None:
    from torch.distributed.checkpoint.utils import _create_file_view

    view = _create_file_view(io.BytesIO(b"0123456789"), 2, 4)
    view.seek(-1, os.SEEK_END)
    assert view.tell() == 5  # and not 3


def test_14_engine_decodes_stock_items_without_that_view(tmp_path: Path) -> None:
    dcp.save({"x": {"nested": [1, 2]}, "t": torch.ones(3)}, storage_writer=dcp.FsspecWriter(str(tmp_path)))
    found = {"x": {"nested": [0, 0]}, "t": torch.zeros(3)}
    dcp_engine.load(found, str(tmp_path))
    assert found["x"] == {"nested": [1, 2]}


def test_every_fault_has_both_tests() -> None:
    names = [name for name in globals() if name.startswith("test_")]
    for fault in range(1, 15):
        assert any(name.startswith(f"test_{fault}_stock") for name in names), fault
        assert any(name.startswith(f"test_{fault}_engine") for name in names), fault
