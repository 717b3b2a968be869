"""What a power cut can take back: what is synced before what, and what a save does if that fails."""

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import dcp_engine
from dcp_engine.errors import CheckpointExists, EngineError, StorageDenied, StorageFull, StorageUnavailable

pytestmark = pytest.mark.tier("ranks")


def state(value: float) -> dict[str, Any]:
    return {"w": torch.full((70_000,), value)}


def value_at(url: Path) -> float:
    found = {"w": torch.zeros(70_000)}
    dcp_engine.load(found, url)
    return float(found["w"][0])


class Disk:
    """Notes, in order, what is done to the file system, and fails the sync of the n-th folder if told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.done: list[tuple[str, str]] = []
        self.fails: Callable[[str], int] = lambda _: 0
        for name in ("link", "rename", "mkdir", "unlink"):
            monkeypatch.setattr(os, name, self._noting(name, getattr(os, name)))
        monkeypatch.setattr(os, "fsync", self._fsync(os.fsync))

    @property
    def synced(self) -> list[str]:
        return [path for what, path in self.done if what == "fsync"]

    def _noting(self, what: str, step: Callable[..., None]) -> Callable[..., None]:
        def noting(*args: Any, **options: Any) -> None:
            step(*args, **options)
            folder = next((of for key, of in options.items() if key.endswith("dir_fd")), None)
            name = os.fspath(args[1] if what in {"link", "rename"} else args[0])
            self.done.append((what, f"{_path(folder)}/{name}" if folder is not None else name))

        return noting

    def _fsync(self, step: Callable[[int], None]) -> Callable[[int], None]:
        def fsync(file: int) -> None:
            path = _path(file)
            if number := self.fails(path):
                self.done.append(("failed", path))
                raise OSError(number, os.strerror(number))
            step(file)
            self.done.append(("fsync", path))

        return fsync


def _path(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    with monkeypatch.context() as patch:
        yield Disk(patch)


@pytest.mark.adversary
def test_what_a_commit_stands_on_is_durable_before_it(tmp_path: Path, disk: Disk) -> None:
    """E-M2: the folders above the checkpoint, the entry of its data folder, the files and their entries."""
    url = tmp_path / "runs" / "exp" / "1"
    dcp_engine.save(state(1), url)
    (commit,) = [number for number, (_, path) in enumerate(disk.done) if path == f"{url}/.metadata"]
    before, after = disk.done[:commit], disk.done[commit + 1 :]
    (data,) = url.glob("data-*")
    for path in (tmp_path, tmp_path / "runs", tmp_path / "runs" / "exp"):
        made = [what for what in before if what[0] == "mkdir" and Path(what[1]).parent == path]
        assert len(made) == 1
        # Each is durable before there is one in it.
        assert before[before.index(made[0]) + 1] == ("fsync", str(path))
    last = {path: number for number, (what, path) in enumerate(before) if what == "fsync"}
    assert last[str(url)] > before.index(("mkdir", str(data)))
    assert last[str(data)] > max(number for number, (what, path) in enumerate(before) if Path(path).parent == data)
    assert all(str(file) in last for file in data.glob("*.distcp"))
    assert ("fsync", str(url)) in after


def test_nothing_is_synced_twice_and_a_probe_not_at_all(tmp_path: Path, disk: Disk) -> None:
    """Each sync waits for the disk: the file, then what has an entry of it, as docs/decisions say."""
    dcp_engine.save(state(1), tmp_path)
    disk.done.clear()  # a first save syncs the folders above, too
    dcp_engine.save(state(2), tmp_path, overwrite=True)
    (data,) = tmp_path.glob("data-*")
    second = disk.synced
    files = [data / "__0_0.distcp", data / "blocks.crc32c", data / "manifest.json"]
    folders = [tmp_path, *[data] * len(files), tmp_path]
    metadata = [path for path in second if path.startswith(f"{tmp_path}/.metadata.")]
    assert len(metadata) == 1
    assert sorted(second) == sorted([*map(str, files), *map(str, folders), *metadata])


def nth_folder(number: int, code: int) -> Callable[[str], int]:
    """Return what fails one sync of a folder, counted from 0."""
    left, lock = [number], threading.Lock()  # several files are written at once

    def fails(path: str) -> int:
        if not Path(path).is_dir():
            return 0
        with lock:
            left[0] -= 1
            return code if left[0] == -1 else 0

    return fails


def first(url: Path) -> None:
    dcp_engine.save(state(1), url / "deep" / "er")


def replacing(url: Path) -> None:
    dcp_engine.save(state(2), url / "deep" / "er", overwrite=True)


CODES = [
    (errno.EIO, StorageUnavailable),
    (errno.ENOSPC, StorageFull),
    (errno.EACCES, StorageDenied),
    (errno.ESTALE, StorageUnavailable),
]


@pytest.mark.adversary
@pytest.mark.parametrize(("code", "error"), CODES, ids=[errno.errorcode[code] for code, _ in CODES])
def test_a_folder_that_can_not_be_synced_fails_the_save(
    tmp_path: Path, disk: Disk, code: int, error: type[EngineError]
) -> None:
    """E-M1: at each sync of a folder in turn: the old checkpoint with all its data, or the new one, durable."""
    first(tmp_path / "counted")
    disk.done.clear()
    replacing(tmp_path / "counted")
    count = sum(Path(path).is_dir() for path in disk.synced)
    assert count > 2
    known = []
    for number in range(count):
        url = tmp_path / str(number)
        first(url)
        disk.fails = nth_folder(number, code)
        with pytest.raises(error) as caught:
            replacing(url)
        disk.fails = lambda _: 0
        known.append(not caught.value.commit_unknown)
        folders = len(list((url / "deep" / "er").glob("data-*")))
        if caught.value.commit_unknown:
            assert folders == 2, "either may be what a power cut leaves"
            assert "not known whether the save was committed" in str(caught.value)
        else:
            assert folders == 1
            assert value_at(url / "deep" / "er") == 1
        replacing(url)
        assert value_at(url / "deep" / "er") == 2
    assert all(known[:-1])
    assert not known[-1], "the name is there already"


@pytest.mark.adversary
def test_a_new_folder_that_can_not_be_synced_is_not_taken_for_one_that_is(tmp_path: Path, disk: Disk) -> None:
    """E-M2: else the next save would find it and build on it."""
    disk.done.clear()
    first(tmp_path / "counted")
    count = sum(Path(path).is_dir() for path in disk.synced)
    for number in range(count):
        url = tmp_path / str(number)
        disk.fails = nth_folder(number, errno.EIO)
        with pytest.raises(StorageUnavailable) as caught:
            first(url)
        disk.fails = lambda _: 0
        disk.done.clear()
        assert caught.value.commit_unknown is (number == count - 1)
        if number < count - 1:
            first(url)
            made = [Path(path) for what, path in disk.done if what == "mkdir"]
            assert all(str(path.parent) in disk.synced for path in made)
            assert str(url / "deep" / "er") in disk.synced
        assert value_at(url / "deep" / "er") == 1


def test_a_folder_that_a_killed_save_did_not_sync_is_not_taken_for_one_that_it_did(tmp_path: Path, disk: Disk) -> None:
    url = tmp_path / "runs" / "1"
    url.mkdir(parents=True)
    dcp_engine.save(state(1), url)
    commit = next(number for number, (_, path) in enumerate(disk.done) if path == f"{url}/.metadata")
    before = disk.done[:commit]
    assert ("fsync", str(tmp_path)) in before
    assert ("fsync", str(tmp_path / "runs")) in before
    disk.done.clear()
    dcp_engine.save(state(2), url, overwrite=True)
    assert str(tmp_path) not in disk.synced, "once is enough"


@pytest.mark.adversary
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF])
def test_a_file_system_that_syncs_no_folders_can_be_saved_to(tmp_path: Path, disk: Disk, code: int) -> None:
    disk.fails = lambda path: code if Path(path).is_dir() else 0
    first(tmp_path)
    replacing(tmp_path)
    assert value_at(tmp_path / "deep" / "er") == 2


@pytest.mark.adversary
def test_a_link_that_was_asked_for_twice_is_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E Minor: NFS answers EEXIST to the second of two requests when the first one's answer got lost."""
    link = os.link

    def twice(*args: Any, **options: Any) -> None:
        link(*args, **options)
        link(*args, **options)

    monkeypatch.setattr(os, "link", twice)
    dcp_engine.save(state(1), tmp_path)
    assert value_at(tmp_path) == 1
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(2), tmp_path)
