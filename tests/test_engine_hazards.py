"""Ways in which a checkpoint got lost, mixed or silently wrong once: what callers, stores and damage can do to it."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from fsspec.implementations.memory import MemoryFileSystem
from torch.distributed.checkpoint.default_planner import DefaultSavePlanner
from torch.distributed.checkpoint.planner import SavePlanner
from torch.distributed.distributed_c10d import DebugLevel

import dcp_engine
import engine_programs as programs
import flaky_proxy
import s3_server
from dcp_engine import failpoints
from dcp_engine.call_options import LoadOptions
from dcp_engine.commit import snapshot
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointExists,
    CheckpointNotFound,
    CheckpointReplaced,
    EngineError,
    InvalidOption,
    PeerHung,
    StorageFull,
    StorageUnavailable,
)
from dcp_engine.format import layout
from dcp_engine.stores.fsspec_store import FsspecStore
from dcp_engine.stores.local_store import LocalStore
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT, Blob
from dcp_engine.transfer.load_transfer import LoadTransfer
from rank_group import run_ranks, values

pytestmark = pytest.mark.tier("ranks")


@pytest.fixture
def hooked() -> Iterator[None]:
    yield
    failpoints.hook = None


@pytest.fixture
def forgotten() -> None:
    """Let no test see the plans that another one's planner kept."""
    for name, value in vars(SavePlanner).items():
        if name.startswith("_cached"):
            value.clear()


def state(seed: float) -> dict[str, Any]:
    return {"w": torch.full((70_000,), float(seed))}


def seed_at(url: str, options: dict[str, Any] | None = None) -> float:
    found = {"w": torch.zeros(70_000)}
    dcp_engine.load(found, url, storage_options=options)
    assert torch.equal(found["w"], torch.full((70_000,), found["w"][0].item()))
    return found["w"][0].item()


# What callers do.


@pytest.mark.usefixtures("forgotten")
def test_a_planner_that_keeps_plans_saves_every_time_anew(tmp_path: Path) -> None:
    for seed, url in enumerate([tmp_path / "a", tmp_path / "a", tmp_path / "b"]):
        dcp_engine.save(state(seed), url, overwrite=True, planner=DefaultSavePlanner(enable_plan_caching=True))
    assert seed_at(str(tmp_path / "a")) == 1
    assert seed_at(str(tmp_path / "b")) == 2


@pytest.mark.usefixtures("forgotten")
def test_a_planner_that_keeps_plans_keeps_none_of_a_refused_save(tmp_path: Path) -> None:
    dcp_engine.save(state(1), tmp_path)
    for seed in (2, 3):
        with pytest.raises(CheckpointExists):
            dcp_engine.save(state(9), tmp_path, planner=DefaultSavePlanner(enable_plan_caching=True))
        dcp_engine.save(state(seed), tmp_path, overwrite=True, planner=DefaultSavePlanner(enable_plan_caching=True))
    assert seed_at(str(tmp_path)) == 3


@pytest.mark.usefixtures("forgotten")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_bare_dcp_with_a_planner_that_keeps_plans_saves_each_time_anew(tmp_path: Path) -> None:
    def save(seed: float) -> None:
        writer = dcp_engine.CheckpointWriter(tmp_path, overwrite=True)
        dcp.save(state(seed), storage_writer=writer, planner=DefaultSavePlanner(enable_plan_caching=True), no_dist=True)

    for seed in (1, 2, 3):
        save(seed)
        assert seed_at(str(tmp_path)) == seed
    assert dcp_engine.verify(tmp_path).save_id == dcp_engine.inspect(tmp_path).save_id


@pytest.mark.parametrize("what", ["url", "step", "patience"])
def test_ranks_that_save_different_things_are_told_so(tmp_path: Path, what: str) -> None:
    for result in run_ranks(2, programs.save_what_differs, str(tmp_path), what):
        assert isinstance(result.error, InvalidOption)
        assert "differs between ranks" in str(result.error)
    assert list(tmp_path.rglob(".metadata")) == []


def test_an_error_that_one_rank_alone_has_seen_stops_all(tmp_path: Path) -> None:
    """Else one rank would go on to the next save, and two steps would meet in one checkpoint."""
    assert values(run_ranks(2, programs.wait_on_one_rank_alone, str(tmp_path))) == [["CheckpointExists", 3]] * 2
    assert values(run_ranks(2, programs.load, f"{tmp_path}/2", None, 3)) == [[], []]


def test_async_saves_take_what_saves_take(tmp_path: Path) -> None:
    z = torch.complex(torch.arange(5.0), torch.arange(5.0))
    given = {"conj": z.conj(), "neg": z.conj().imag, "view": z[::2], "scalar": torch.tensor(3)}
    dcp_engine.async_save(given, tmp_path).wait()
    found = {name: torch.zeros_like(value) for name, value in given.items()}
    dcp_engine.load(found, tmp_path)
    assert all(torch.equal(found[name], value) for name, value in given.items())


def test_async_saves_take_the_tensors_of_fsdp1(tmp_path: Path) -> None:
    assert values(run_ranks(2, programs.async_save_of_sharded_tensors, str(tmp_path))) == [True, True]


def test_a_new_process_group_is_no_hindrance(tmp_path: Path) -> None:
    assert values(run_ranks(2, programs.save_in_two_process_groups, str(tmp_path))) == [2, 2]


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("point", "stage", "unknown"),
    [("planning", "planning", False), ("before commit", "writing", True), ("after commit", "writing", True)],
)
def test_a_hung_rank_0_is_named(tmp_path: Path, point: str, stage: str, *, unknown: bool) -> None:
    """E Minor: once it may commit, the others don't know whether it did."""
    results = run_ranks(3, programs.save_with_a_hung_rank_0, str(tmp_path), point, ends=[1, 2], timeout=60)
    for result in results[1:]:
        assert isinstance(result.error, PeerHung)
        assert result.error.rank == 0
        assert f"rank 0 said nothing about {stage} for more than 1 s" in str(result.error)
        assert result.error.commit_unknown is unknown


def test_a_rank_that_never_comes_is_named(tmp_path: Path) -> None:
    results = run_ranks(3, programs.save_without_one_rank, str(tmp_path), 1, ends=[0, 2], timeout=60)
    for result in (results[0], results[2]):
        assert isinstance(result.error, PeerHung)
        assert result.error.rank == 1
        assert "rank 1 did not finish joining within 5 s" in str(result.error)


def test_a_rank_that_comes_late_joins_no_later_save(tmp_path: Path) -> None:
    results = run_ranks(2, programs.save_one_call_apart, str(tmp_path / "it"), str(tmp_path / "gave-up"))
    for result in results:
        assert isinstance(result.error, InvalidOption)
        assert "'call 2', 30) on rank 0" in str(result.error)
        assert "'call 1', 30) on rank 1" in str(result.error)
    assert dcp_engine.find(str(tmp_path / "it")) is None


def test_a_save_of_some_ranks_leaves_all_of_them_able_to_make_groups(tmp_path: Path) -> None:
    assert values(run_ranks(3, programs.save_in_a_part_of_the_ranks, str(tmp_path))) == [3, 3, 3]


def test_a_group_that_was_left_keeps_no_threads(tmp_path: Path) -> None:
    for counts in values(run_ranks(2, programs.threads_after_each_save, str(tmp_path))):
        assert max(counts) - counts[0] < 4  # a group has some seven


@pytest.mark.parametrize("debug", [DebugLevel.OFF, DebugLevel.DETAIL])
def test_groups_are_made_once_and_in_the_order_of_the_calls(tmp_path: Path, debug: DebugLevel) -> None:
    assert values(run_ranks(2, programs.makers_of_groups, str(tmp_path), debug)) == [["MainThread"] * 2] * 2


def test_a_file_that_a_state_misses_is_not_one_of_the_checkpoint(tmp_path: Path) -> None:
    class Missing:
        def state_dict(self) -> dict[str, Any]:
            raise FileNotFoundError(2, "No such file or directory", "vocabulary.json")

        def load_state_dict(self, state: dict[str, Any]) -> None: ...

    with pytest.raises(EngineError, match=r"Missing\.state_dict\(\): FileNotFoundError: .*vocabulary\.json"):
        dcp_engine.save({"data": Missing()}, tmp_path)


# What URLs say.


@pytest.mark.parametrize("name", ["run#1", "run?a=1", "a%20b", "a%2Fb", "a b+c", "ü"])
def test_a_url_means_what_it_means_to_fsspec(s3: s3_server.S3Server, tmp_path: Path, name: str) -> None:
    dcp_engine.save(state(1), s3.url(f"{tmp_path.name}/run"), storage_options=s3.options)
    dcp_engine.save(state(2), s3.url(f"{tmp_path.name}/{name}"), storage_options=s3.options)
    assert seed_at(s3.url(f"{tmp_path.name}/run"), s3.options) == 1
    assert seed_at(s3.url(f"{tmp_path.name}/{name}"), s3.options) == 2
    assert f"{tmp_path.name}/{name}/.metadata" in s3.keys(tmp_path.name)
    dcp_engine.save(state(1), f"file://{tmp_path}/run")
    dcp_engine.save(state(2), f"file://{tmp_path}/{name}")
    assert seed_at(f"{tmp_path}/run") == 1
    assert seed_at(f"{tmp_path}/{name}") == 2


# What stores do.


class LateStore(LocalStore):
    """Gives no answer to a replace, and carries it out later."""

    late: Callable[[], None]

    def replace(self, path: str, data: bytes, version: Any) -> None:
        self.late = lambda: LocalStore.replace(self, path, data, version)
        raise TimeoutError("no answer")


def test_a_commit_that_may_still_arrive_keeps_its_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dcp_engine.save(state(1), tmp_path)
    store = LateStore(str(tmp_path))
    monkeypatch.setattr("dcp_engine.saving.open_store", lambda *_: store)
    with pytest.raises(StorageUnavailable, match="not known whether the save was committed") as caught:
        dcp_engine.save(state(2), tmp_path, overwrite=True)
    assert caught.value.commit_unknown
    assert seed_at(str(tmp_path)) == 1
    store.late()
    assert seed_at(str(tmp_path)) == 2


class LostAnswerStore(LocalStore):
    """Carries a replace out and gives no answer; its versions, as on a file system that keeps few times, don't tell."""

    def read(self, path: str, *, tail: int | None = None) -> Blob:
        return dataclasses.replace(super().read(path, tail=tail), version="any")

    def replace(self, path: str, data: bytes, version: Any) -> None:
        super().replace(path, data, LocalStore.read(self, path).version)
        raise TimeoutError("no answer")


def test_a_commit_is_recognised_by_its_save_id_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dcp_engine.save(state(1), tmp_path)
    monkeypatch.setattr("dcp_engine.saving.open_store", lambda *_: LostAnswerStore(str(tmp_path)))
    info = dcp_engine.save(state(2), tmp_path, overwrite=True)
    assert seed_at(str(tmp_path)) == 2
    assert [path.name for path in tmp_path.glob("data-*")] == [layout.data_folder(info.save_id)]


@pytest.mark.parametrize("guard", [ATOMIC, BEST_EFFORT])
def test_a_commit_that_somebody_else_forestalled_arrives_where_the_store_does_not_compare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guard: str
) -> None:
    dcp_engine.save(state(1), tmp_path)
    store = LateStore(str(tmp_path))
    monkeypatch.setattr(store, "guard", lambda _: guard)
    monkeypatch.setattr("dcp_engine.saving.open_store", lambda *_: store)

    def overtaken(path: str, data: bytes, version: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("dcp_engine.saving.open_store", open_store)
            dcp_engine.save(state(3), tmp_path, overwrite=True)
        LateStore.replace(store, path, data, version)

    monkeypatch.setattr(store, "replace", overtaken)
    with pytest.raises(StorageUnavailable) as caught:
        dcp_engine.save(state(2), tmp_path, overwrite=True)
    assert caught.value.commit_unknown is (guard == BEST_EFFORT)
    assert seed_at(str(tmp_path)) == 3
    stays = 2 if caught.value.commit_unknown else 1
    assert len(list(tmp_path.glob("data-*"))) == stays


def test_a_store_that_forbids_deletes_can_be_saved_to(s3: s3_server.S3Server, tmp_path: Path) -> None:
    url = s3.url(tmp_path.name)
    with flaky_proxy.before(s3) as proxy:
        proxy.rule = lambda method, path: "403" if method == "DELETE" or path.endswith("?delete") else None
        assert dcp_engine.save(state(1), url, storage_options=proxy.server.options).conflict_guard == "Atomic"
        with pytest.raises(CheckpointExists):
            dcp_engine.save(state(2), url, storage_options=proxy.server.options)
        now = timedelta(0)
        assert dcp_engine.save(state(3), url, storage_options=proxy.server.options, overwrite=True, keep_replaced=now)
        assert "403" in proxy.faults
    assert seed_at(url, s3.options) == 3
    # What could not be deleted then is found later, and nothing else is.
    gone = dcp_engine.clean(url, storage_options=s3.options, older_than=timedelta(0))
    assert len({name.partition("/")[0] for name in gone if not name.startswith("data-probe-")}) == 1
    assert seed_at(url, s3.options) == 3


def test_a_file_system_without_hard_links_is_best_effort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("dcp_engine.stores.local_store.os.link", refuse)
    assert dcp_engine.save(state(1), tmp_path).conflict_guard == "BestEffort"
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(2), tmp_path)
    assert seed_at(str(tmp_path)) == 1
    assert dcp_engine.clean(tmp_path, older_than=timedelta(0)) == []


def test_another_file_system_never_shows_half_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecStore(f"file://{tmp_path}", {})
    monkeypatch.setattr("dcp_engine.saving.open_store", lambda *_: store)
    dcp_engine.save(state(1), tmp_path)

    def breaks_off(path: str, data: bytes) -> None:
        Path(path).write_bytes(data[: len(data) // 2])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(store._fs, "pipe_file", breaks_off)
    engine_state = store.read(layout.METADATA)
    with pytest.raises(OSError, match="Input/output"):
        store.replace(layout.METADATA, b"x" * 1000, engine_state.version)
    assert seed_at(str(tmp_path)) == 1
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("data-")) == [".metadata"]


class RefusesToRename(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """As SMB does, onto a name that is taken."""

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None:
        if self.exists(path2):
            raise FileExistsError(path2)
        super().mv(path1, path2, **kwargs)


class RenamesNothing(MemoryFileSystem):  # type: ignore[misc] # fsspec has no types
    """As WebHDFS does, without a word."""

    def mv(self, path1: str, path2: str, **kwargs: Any) -> None: ...


@pytest.mark.parametrize("kind", [MemoryFileSystem, RefusesToRename, RenamesNothing])
@pytest.mark.parametrize("name", ["plain", "a[1]b", "what?*"])
def test_a_file_system_of_fsspec_need_not_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[MemoryFileSystem], name: str
) -> None:
    store = FsspecStore(f"memory://{tmp_path.name}/{name}", {})
    monkeypatch.setattr(store, "_fs", kind())
    monkeypatch.setattr("dcp_engine.saving.open_store", lambda *_: store)
    dcp_engine.save(state(1), store.url)
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(2), store.url)
    saved = dcp_engine.save(state(3), store.url, overwrite=True)
    assert seed_at(store.url) == 3
    folders = {entry.path.partition("/")[0] for entry in store.list("")}
    assert folders == {".metadata", layout.data_folder(saved.save_id)}


def test_a_commit_that_breaks_off_where_nothing_is_renamed_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FsspecStore(f"memory://{tmp_path.name}", {})
    put = store._fs.pipe_file

    def breaks_off(path: str, data: bytes) -> None:
        put(path, data[: len(data) // 2] if path.endswith(".metadata") else data)
        if path.endswith(".metadata"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(store._fs, "pipe_file", breaks_off)
    monkeypatch.setattr("dcp_engine.saving.open_store", lambda *_: store)
    with pytest.raises(StorageFull):
        dcp_engine.save(state(1), store.url)
    assert list(store.list("")) == []


def test_a_rename_that_did_not_happen_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FsspecStore(f"file://{tmp_path}", {})
    monkeypatch.setattr(store._fs, "mv", lambda *_: None)
    with pytest.raises(OSError, match="did not rename"):
        store.create("x", b"y")
    assert list(tmp_path.iterdir()) == []


# What damage does.


@pytest.mark.parametrize("left", [-2, -40, 0])
def test_a_damaged_commit_is_no_checkpoint_and_loses_nothing(tmp_path: Path, left: int) -> None:
    dcp_engine.save(state(1), tmp_path)
    metadata = tmp_path / ".metadata"
    whole = metadata.read_bytes()
    end = left or len(whole) - layout.parse_trailer(whole)[1]  # 0: the trailer is gone altogether
    metadata.write_bytes(whole[:end])
    before = sorted(tmp_path.rglob("*"))
    for look in (dcp_engine.inspect, dcp_engine.verify, seed_at):
        with pytest.raises(CheckpointCorrupted, match=r"\.metadata"):
            look(str(tmp_path))
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(2), tmp_path)
    if left:
        with pytest.raises(CheckpointCorrupted, match=r"\.metadata"):
            dcp_engine.find(tmp_path)
        with pytest.raises(CheckpointCorrupted, match=r"\.metadata"):
            dcp_engine.clean(tmp_path, older_than=timedelta(0))
    else:
        assert dcp_engine.clean(tmp_path, older_than=timedelta(0)) == []
    assert sorted(tmp_path.rglob("*")) == before
    dcp_engine.save(state(3), tmp_path, overwrite=True)
    assert seed_at(str(tmp_path)) == 3


@pytest.mark.parametrize("where", ["local", "s3"])
def test_an_empty_commit_is_damaged_as_any_other(s3: s3_server.S3Server, tmp_path: Path, where: str) -> None:
    url, options = (s3.url(tmp_path.name), s3.options) if where == "s3" else (str(tmp_path), {})
    dcp_engine.save(state(1), url, storage_options=options)
    if where == "s3":
        s3.client().put_object(Bucket=s3.bucket, Key=f"{tmp_path.name}/.metadata", Body=b"")
    else:
        (tmp_path / ".metadata").write_bytes(b"")
    for look in (dcp_engine.find, dcp_engine.inspect, dcp_engine.verify, dcp_engine.clean):
        with pytest.raises(CheckpointCorrupted, match=r"\.metadata"):
            look(url, storage_options=options)
    with pytest.raises(CheckpointCorrupted, match=r"\.metadata"):
        seed_at(url, options)
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(2), url, storage_options=options)
    dcp_engine.save(state(3), url, storage_options=options, overwrite=True)
    assert seed_at(url, options) == 3


def test_a_missing_digest_file_is_damage(tmp_path: Path) -> None:
    saved = dcp_engine.save(state(1), tmp_path)
    (tmp_path / layout.blocks_path(saved.save_id)).unlink()
    for look in (dcp_engine.verify, seed_at):
        with pytest.raises(CheckpointCorrupted, match=r"blocks\.crc32c"):
            look(str(tmp_path))


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("every", [97, pytest.param(23, marks=pytest.mark.tier("matrix"))])
def test_damage_to_a_stock_checkpoint_is_damage_wherever_it_is(tmp_path: Path, every: int) -> None:
    dcp.save({"w": torch.arange(9.0), "o": {"a": [1, 2]}}, checkpoint_id=tmp_path, no_dist=True)
    (file,) = tmp_path.glob("*.distcp")
    whole = file.read_bytes()
    found = 0

    def load(url: Path) -> None:
        dcp_engine.load({"o": {"a": [0, 0]}}, url)

    for at in range(0, len(whole), every):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :])
        for look in (dcp_engine.verify, load):
            try:
                look(tmp_path)
            except CheckpointCorrupted:
                found += 1
    assert found > len(whole) // every * 2 // 7  # of two looks at each place


@pytest.mark.usefixtures("hooked")
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_stock_checkpoint_that_is_replaced_under_a_load_is_loaded_anew(tmp_path: Path) -> None:
    dcp.save(state(1), checkpoint_id=tmp_path, no_dist=True)
    store = open_store(str(tmp_path))
    transfer = LoadTransfer(store, LoadOptions(), snapshot.read(store))
    dcp_engine.save(state(2), tmp_path, overwrite=True)
    assert isinstance(transfer._gone("__0_0.distcp"), CheckpointReplaced)
    (tmp_path / ".metadata").unlink()
    with pytest.raises(CheckpointNotFound):
        seed_at(str(tmp_path))


@pytest.mark.adversary
@pytest.mark.parametrize("parts", [["metadata"], ["data"], ["data", "metadata"]], ids="-".join)
@pytest.mark.parametrize("times", [1, 2])
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_a_stock_checkpoint_that_stock_replaces_under_a_load_is_never_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: list[str], times: int
) -> None:
    """Stock writes its files again under their old names, and `.metadata` last. A load has one read here."""
    saves = []
    for number in range(3):
        url = tmp_path / str(number)
        dcp.save({"w": torch.full((9,), number), "n": number}, checkpoint_id=url, no_dist=True)
        (data,) = url.glob("*.distcp")
        saves.append({"data": data.read_bytes(), "metadata": (url / ".metadata").read_bytes()})
    stands, names = tmp_path / "0", {"data": data.name, "metadata": ".metadata"}
    left = saves[1 : times + 1]
    fill = LocalStore.fill

    def fill_and_replace(store: LocalStore, *args: Any) -> Iterator[memoryview]:
        pieces = fill(store, *args)
        yield next(pieces)
        if left:
            new = left.pop(0)
            for part in parts:
                (stands / names[part]).write_bytes(new[part])
        yield from pieces

    monkeypatch.setattr(LocalStore, "fill", fill_and_replace)
    target: dict[str, Any] = {"w": torch.full((9,), -1), "n": -1}
    if times == 1:
        dcp_engine.load(target, stands)
        assert target["w"].tolist() == [target["n"]] * 9 == [int("data" in parts)] * 9
    else:
        with pytest.raises(CheckpointReplaced):
            dcp_engine.load(target, stands)
        assert left == []


def test_a_folder_that_another_rank_removes_while_it_is_empty_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rank that gives a save up removes the folder that its own files leave empty."""
    store, made = LocalStore(str(tmp_path)), os.mkdir
    gone: list[str] = []

    def mkdir(path: str, *args: Any, **options: Any) -> None:
        made(path, *args, **options)
        if not gone:
            gone.append(path)
            store.delete(["data-x/other"])

    monkeypatch.setattr(os, "mkdir", mkdir)
    store.write("data-x/mine", [b"data"], part_size=1, parallel=1)
    assert gone == ["data-x"]
    assert (tmp_path / "data-x" / "mine").read_bytes() == b"data"
