"""What is replaced is kept for those who read it, and goes in time: never what stands, never what somebody writes."""

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.filesystem import FileSystemReader

import dcp_engine
import flaky_proxy
import s3_server
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import failpoints
from dcp_engine.commit import replaced
from dcp_engine.commit.replaced import Live, Tombstone
from dcp_engine.errors import CheckpointExists, InvalidOption, StorageDenied, StorageFull, StorageUnavailable
from dcp_engine.format import layout
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import Entry
from dcp_engine.transfer.save_transfer import SaveTransfer

NOW = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
NONE = timedelta(0)
A, B, C, D = (letter * 32 for letter in "abcd")

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]


def state(value: float) -> dict[str, Any]:
    return {"w": torch.full((70_000,), value)}


def value_at(url: str | Path, options: dict[str, Any] | None = None) -> float:
    found = {"w": torch.zeros(70_000)}
    dcp_engine.load(found, url, storage_options=options)
    return float(found["w"][0])


# What is due.


def stone(save_id: str, minutes: float, keep: timedelta = HOUR, by: str = D) -> Tombstone:
    return Tombstone(f"replaced/{save_id or 'stock'}.{by}", save_id, NOW - timedelta(minutes=minutes), keep)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("stones", "live", "due"),
    [
        ([], Live(D), set()),
        ([stone(A, 59)], Live(D), set()),
        ([stone(A, 60)], Live(D), {A}),
        ([stone(A, 61)], None, {A}),
        ([stone(A, 1, timedelta(seconds=30))], Live(D), {A}),
        # What stands at the URL goes in no case: a save that marked it came to nothing.
        ([stone(A, 1000)], Live(A), set()),
        ([stone("", 1000)], Live(""), set()),
        ([stone("", 1000)], Live(D), {""}),
        # The last to replace it counts: one before it came to nothing.
        ([stone(A, 1000, by=B), stone(A, 5, by=C)], Live(D), set()),
        ([stone(A, 5, NONE, by=B), stone(A, 1000, HOUR, by=C)], Live(D), {A}),
        # Whoever stands there replaced it, and no removal that came to nothing.
        ([stone(A, 5, NONE, by=B), stone(A, 6, HOUR)], Live(D), set()),
        ([stone(A, 5, NONE, by=B), stone(A, 61, HOUR)], Live(D), {A}),
        # Two at most, the newest.
        ([stone(A, 3), stone(B, 2), stone("", 1)], Live(D), {A}),
        ([stone(A, 3), stone(B, 2), stone(C, 1), stone("", 4)], Live(D), {"", A}),
        # A tombstone of what stands takes nobody's place.
        ([stone(A, 3), stone(B, 2), stone(D, 1)], Live(D), set()),
        # A clock that runs ahead keeps longer, never shorter.
        ([stone(A, -30)], Live(D), set()),
    ],
)
def test_what_is_due(stones: list[Tombstone], live: Live | None, due: set[str]) -> None:
    """E-M4."""
    assert set(replaced.due(stones, live, NOW)) == due


def test_who_cleans_may_keep_for_less() -> None:
    assert set(replaced.due([stone(A, 5), stone(D, 5)], Live(D), NOW, keep=NONE)) == {A}
    assert set(replaced.due([stone(A, 61)], Live(D), NOW, keep=2 * HOUR)) == set()


def test_of_a_stock_checkpoint_goes_what_was_not_written_since() -> None:
    """E-M4: the next stock save to the URL uses the same names."""
    marked = Tombstone("replaced/stock.x", "", NOW, HOUR, ("__0_0.distcp", "__1_0.distcp"))
    entries = [
        Entry("__0_0.distcp", 1, NOW - HOUR),
        Entry("__1_0.distcp", 1, NOW + HOUR),
        Entry("__2_0.distcp", 1, NOW - HOUR),
        Entry(f"data-{A}/__0_0.distcp", 1, NOW - HOUR),
    ]
    assert replaced.doomed("", [marked], entries) == ["__0_0.distcp", "replaced/stock.x"]


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("name", "content"),
    [
        (f"{A}.{B}", b"no json"),
        (f"{A}.{B}", b"[" * 100_000),
        (f"{A}.{B}", b'{"keepSeconds":1e999,"files":[]}'),
        (f"{A}.{B}", b'{"keepSeconds":1e300,"files":[]}'),
        (f"{A}.{B}", b'{"keepSeconds":"soon","files":[]}'),
        (f"stock.{B}", b'{"keepSeconds":0,"files":["../../home/thesis.txt"]}'),
        (f"stock.{B}", b'{"keepSeconds":0,"files":[".metadata"]}'),
        (f"stock.{B}", b'{"keepSeconds":0,"files":[7]}'),
        (f"{A}.{C}", b'{"keepSeconds":0,"files":[]}' + b" " * (16 << 20)),
        (f"../{A}.{B}", b'{"keepSeconds":0,"files":[]}'),
        ("thesis.txt", b'{"keepSeconds":0,"files":[]}'),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:30].decode(),
)
def test_a_tombstone_that_no_save_wrote_is_passed_over(tmp_path: Path, name: str, content: bytes) -> None:
    """E-C1, E-M4."""
    planted = Path(os.path.normpath(tmp_path / "replaced" / name))
    planted.parent.mkdir(exist_ok=True)
    planted.write_bytes(content)
    dcp_engine.save(state(1), tmp_path)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert dcp_engine.clean(tmp_path, older_than=NONE, keep_replaced=NONE) == []
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.adversary
def test_a_tombstone_of_what_stands_removes_nothing(tmp_path: Path) -> None:
    """E-M4: whoever may write there, and a save that was killed before its commit, leave one."""
    saved = dcp_engine.save(state(1), tmp_path)
    replaced.mark(open_store(str(tmp_path)), saved.save_id, by=A, keep=NONE)
    assert dcp_engine.clean(tmp_path, older_than=NONE, keep_replaced=NONE) == []
    assert value_at(tmp_path) == 1
    dcp_engine.save(state(2), tmp_path, overwrite=True, keep_replaced=HOUR)
    # It was replaced just now, whatever the first tombstone says.
    assert saves(tmp_path) == 2
    assert dcp_engine.verify(tmp_path)


def saves(url: Path) -> int:
    return len(list(url.glob("data-*")))


# Those who read.


@pytest.fixture
def hooked() -> Iterator[None]:
    yield
    failpoints.hook = None


@pytest.mark.adversary
def test_a_stock_reader_that_began_before_finishes(tmp_path: Path) -> None:
    """E-M4: stock DCP reads `.metadata` once, and the data as long as it likes."""
    dcp_engine.save(state(1), tmp_path)
    metadata = FileSystemReader(tmp_path).read_metadata()

    class Early(FileSystemReader):
        def read_metadata(self, *args: Any, **options: Any) -> Any:
            return metadata

    for value in (2, 3):
        dcp_engine.save(state(value), tmp_path, overwrite=True, keep_replaced=HOUR)
    found = {"w": torch.zeros(70_000)}
    dcp.load(found, storage_reader=Early(tmp_path), no_dist=True)
    assert float(found["w"][0]) == 1
    assert value_at(tmp_path) == 3
    assert dcp_engine.verify(tmp_path).save_id == dcp_engine.inspect(tmp_path).save_id
    dcp_engine.save(state(4), tmp_path, overwrite=True, keep_replaced=HOUR)
    assert saves(tmp_path) == 3, "two are kept, beside what stands"


@pytest.mark.adversary
def test_a_load_during_which_two_saves_replace_the_checkpoint_finishes(tmp_path: Path, hooked: None) -> None:
    """E-M4: without a grace it starts over once, and fails the second time."""
    dcp_engine.save(state(1), tmp_path)
    values = iter((2, 3))

    def hook(reached: str) -> None:
        if reached == "reading" and (value := next(values, None)):
            failpoints.hook = None
            dcp_engine.save(state(value), tmp_path, overwrite=True, keep_replaced=HOUR)
            failpoints.hook = hook

    failpoints.hook = hook
    assert value_at(tmp_path) == 1


@pytest.mark.adversary
def test_a_stock_checkpoint_that_is_replaced_is_kept_too(tmp_path: Path) -> None:
    """E-M4."""
    dcp.save(state(1), checkpoint_id=tmp_path, no_dist=True)
    metadata = FileSystemReader(tmp_path).read_metadata()
    dcp_engine.save(state(2), tmp_path, overwrite=True, keep_replaced=HOUR)

    class Early(FileSystemReader):
        def read_metadata(self, *args: Any, **options: Any) -> Any:
            return metadata

    found = {"w": torch.zeros(70_000)}
    dcp.load(found, storage_reader=Early(tmp_path), no_dist=True)
    assert float(found["w"][0]) == 1
    assert dcp_engine.clean(tmp_path, older_than=NONE) == []
    assert "__0_0.distcp" in dcp_engine.clean(tmp_path, older_than=NONE, keep_replaced=NONE)
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("data-")) == [".metadata"]
    assert value_at(tmp_path) == 2


@pytest.mark.adversary
@pytest.mark.filterwarnings("ignore:Detected an existing checkpoint")
def test_a_stock_save_over_ours_is_not_cleaned_away(tmp_path: Path) -> None:
    """E-M4: stock names its files as the stock checkpoint did that was replaced."""
    dcp.save(state(1), checkpoint_id=tmp_path, no_dist=True)
    dcp_engine.save(state(2), tmp_path, overwrite=True, keep_replaced=HOUR)
    dcp.save(state(3), checkpoint_id=tmp_path, no_dist=True)
    dcp_engine.clean(tmp_path, older_than=NONE, keep_replaced=NONE)
    assert value_at(tmp_path) == 3


# When it goes.


@pytest.mark.adversary
def test_what_was_kept_goes_with_the_next_save(tmp_path: Path) -> None:
    """E-M4."""
    first = dcp_engine.save(state(1), tmp_path)
    second = dcp_engine.save(state(2), tmp_path, overwrite=True, keep_replaced=timedelta(seconds=0.05))
    assert (tmp_path / layout.data_folder(first.save_id)).exists()
    time.sleep(0.06)  # the file system's own clock is what counts
    third = dcp_engine.save(state(3), tmp_path, overwrite=True, keep_replaced=HOUR)
    assert {path.name for path in tmp_path.glob("data-*")} == {
        layout.data_folder(second.save_id), layout.data_folder(third.save_id)
    }  # fmt: skip
    # Who keeps nothing removes what is its own at once, and leaves to the others what they asked for.
    fourth = dcp_engine.save(state(4), tmp_path, overwrite=True, keep_replaced=NONE)
    assert {path.name for path in tmp_path.glob("data-*")} == {
        layout.data_folder(second.save_id), layout.data_folder(fourth.save_id)
    }  # fmt: skip
    assert dcp_engine.clean(tmp_path, older_than=NONE) == []
    assert len(dcp_engine.clean(tmp_path, older_than=NONE, keep_replaced=NONE)) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [".metadata", layout.data_folder(fourth.save_id)]
    assert value_at(tmp_path) == 4


@pytest.mark.adversary
def test_an_old_checkpoint_that_was_replaced_just_now_is_not_an_orphan(tmp_path: Path) -> None:
    """E-M4: its files are as old as an orphan's."""
    saved = dcp_engine.save(state(1), tmp_path)
    for path in (tmp_path / layout.data_folder(saved.save_id)).iterdir():
        os.utime(path, (0, 0))
    dcp_engine.save(state(2), tmp_path, overwrite=True, keep_replaced=HOUR)
    assert dcp_engine.clean(tmp_path) == []
    assert dcp_engine.clean(tmp_path, keep_replaced=NONE, dry_run=True)
    assert saves(tmp_path) == 2


def test_a_save_that_fails_leaves_no_tombstone(tmp_path: Path, hooked: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-M4."""
    dcp_engine.save(state(1), tmp_path)
    rename = os.rename

    def full(*args: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "rename", full)
    with pytest.raises(StorageFull):
        dcp_engine.save(state(2), tmp_path, overwrite=True, keep_replaced=HOUR)
    monkeypatch.setattr(os, "rename", rename)
    assert not (tmp_path / "replaced").exists()
    assert saves(tmp_path) == 1
    assert value_at(tmp_path) == 1


@pytest.mark.adversary
def test_the_result_is_known_before_anything_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E-M4: under bare `dcp.save` there is no moment after it."""
    dcp_engine.save(state(1), tmp_path)
    writer = dcp_engine.CheckpointWriter(tmp_path, overwrite=True)
    seen: list[int] = []
    publish = SaveTransfer.publish

    def published(*args: Any) -> CheckpointInfo:
        info = publish(*args)
        seen.append(saves(tmp_path))
        return info

    monkeypatch.setattr(SaveTransfer, "publish", published)
    dcp.save(state(2), storage_writer=writer, no_dist=True)
    assert seen == [2]
    assert saves(tmp_path) == 1


@pytest.mark.adversary
def test_a_file_system_keeps_nothing_unless_asked_and_nobody_keeps_for_less_than_that(tmp_path: Path) -> None:
    dcp_engine.save(state(1), tmp_path)
    dcp_engine.save(state(2), tmp_path, overwrite=True)
    assert saves(tmp_path) == 1
    with pytest.raises(InvalidOption, match="keep_replaced"):
        dcp_engine.save(state(3), tmp_path, overwrite=True, keep_replaced=-HOUR)


@pytest.mark.parametrize(
    ("seconds", "keep", "left"),
    [(3600, None, 2), (3600.0, NONE, 1), (0, None, 1), (0, HOUR, 2)],
    ids=["option", "argument over option", "none", "argument over none"],
)
def test_a_storage_option_says_how_long(tmp_path: Path, seconds: float, keep: timedelta | None, left: int) -> None:
    """It is how a Checkpoint says it."""
    options = {"keep_replaced": seconds}
    dcp_engine.save(state(1), tmp_path, storage_options=options)
    dcp_engine.save(state(2), tmp_path, storage_options=options, overwrite=True, keep_replaced=keep)
    assert len([*tmp_path.glob("data-*")]) == left
    assert value_at(tmp_path, options) == 2


@pytest.mark.parametrize("seconds", [-1, "soon", 1e300, None])
def test_a_storage_option_that_is_no_time_is_refused(tmp_path: Path, seconds: object) -> None:
    with pytest.raises(InvalidOption, match="keep_replaced"):
        dcp_engine.save(state(1), tmp_path, storage_options={"keep_replaced": seconds})


def test_of_two_that_a_store_dates_alike_the_later_stays() -> None:
    same = [replace(stone(save_id * 32, 1), noted=f"2026-11-26T10:00:00.{save_id}+00:00") for save_id in "312"]
    assert replaced.due(same, Live("f" * 32), NOW).keys() == {"1" * 32}


# Object stores.


@pytest.mark.adversary
def test_an_object_store_keeps_for_an_hour(s3: s3_server.S3Server, tmp_path: Path) -> None:
    """E-M4."""
    url, options = s3.url(tmp_path.name), s3.options

    def folders() -> set[str]:
        return {key.split("/")[1] for key in s3.keys(tmp_path.name)} - {".metadata", "replaced"}

    def save(value: float) -> Any:
        return dcp_engine.save(state(value), url, storage_options=options, overwrite=True)

    ids = [save(value).save_id for value in range(1, 5)]
    assert folders() == {layout.data_folder(save_id) for save_id in ids[1:]}
    assert value_at(url, options) == 4
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(5), url, storage_options=options)
    assert dcp_engine.clean(url, storage_options=options, older_than=NONE) == []
    assert len(dcp_engine.clean(url, storage_options=options, keep_replaced=NONE)) == 2 * 4
    assert folders() == {layout.data_folder(ids[-1])}
    assert not [key for key in s3.keys(tmp_path.name) if "replaced" in key]


@pytest.mark.adversary
def test_a_save_that_stood_without_knowing_is_kept_as_any_other(s3: s3_server.S3Server, tmp_path: Path) -> None:
    """E-M4: its commit got no answer, another replaced it, and it is told that it failed."""
    url, options = s3.url(tmp_path.name), s3.options
    first = dcp_engine.save(state(1), url, storage_options=options)
    tries: list[str] = []

    def rule(method: str, path: str) -> flaky_proxy.Fault | None:
        if method != "PUT" or not path.endswith("/.metadata"):
            return None
        tries.append(path)
        if len(tries) == 2:
            dcp_engine.save(state(3), url, storage_options=options, overwrite=True)
        return "lose answer" if len(tries) == 1 else None

    with flaky_proxy.before(s3) as proxy:
        proxy.rule = rule
        with pytest.raises(StorageUnavailable):
            dcp_engine.save(state(2), url, storage_options=proxy.server.options, overwrite=True)
    assert value_at(url, options) == 3
    folders = {key.split("/")[1] for key in s3.keys(tmp_path.name)}
    assert len(folders) == 5, "three saves, the tombstones and .metadata"
    assert layout.data_folder(first.save_id) in folders
    assert dcp_engine.clean(url, storage_options=options, older_than=NONE) == []


def test_a_store_that_forbids_deletes_is_replaced_all_the_same(s3: s3_server.S3Server, tmp_path: Path) -> None:
    url = s3.url(tmp_path.name)
    with flaky_proxy.before(s3) as proxy:
        proxy.rule = lambda method, path: "403" if method == "DELETE" or path.endswith("?delete") else None
        for value in range(1, 5):
            dcp_engine.save(state(value), url, storage_options=proxy.server.options, overwrite=True)
        assert value_at(url, proxy.server.options) == 4


@pytest.mark.adversary
def test_remains_are_spoken_of_only_where_something_was_written(
    s3: s3_server.S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """B-14: a save that never came to writing."""
    url, options = s3.url(tmp_path.name), {"max_attempts": 1}
    with flaky_proxy.before(s3) as proxy:
        proxy.rule = lambda *_: "403"
        with pytest.raises(StorageDenied):
            dcp_engine.save(state(1), url, storage_options=proxy.server.options | options)
        assert "files of a failed save remain" not in caplog.text
        proxy.rule = lambda method, path: "403" if path.endswith(("manifest.json", "?delete")) else None
        with pytest.raises(StorageDenied):
            dcp_engine.save(state(1), url, storage_options=proxy.server.options | options)
        assert "files of a failed save remain" in caplog.text


def test_for_ever_is_long_and_can_be_read_again(tmp_path: Path) -> None:
    dcp_engine.save(state(1), tmp_path)
    dcp_engine.save(state(2), tmp_path, overwrite=True, keep_replaced=timedelta.max)
    store = open_store(str(tmp_path))
    (found,) = replaced.tombstones(store, store.list(layout.REPLACED))
    assert found.keep > timedelta(days=30_000)
    assert dcp_engine.clean(tmp_path, older_than=NONE) == []
