"""A checkpoint's folder that others may write to: nothing that they plant leads out of it, and nothing hangs."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp

import dcp_engine
from dcp_engine.commit import protocol
from dcp_engine.errors import CheckpointCorrupted, CheckpointExists, EngineError
from dcp_engine.format import layout
from dcp_engine.stores import folders
from dcp_engine.stores.fsspec_store import FsspecStore
from dcp_engine.stores.local_store import LocalStore

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.adversary, pytest.mark.timeout(60)]

ID = "0123456789abcdef" * 2


def state(value: float) -> dict[str, Any]:
    return {"w": torch.full((70_000,), value)}


def value_at(url: Path) -> float:
    found = {"w": torch.zeros(70_000)}
    dcp_engine.load(found, url)
    return float(found["w"][0])


def metadata_of(save_id: str) -> bytes:
    """Return a `.metadata` that anybody can write: an empty pickle, and the trailer of a save that never was."""
    return b"\x80\x04N." + layout.Trailer(save_id, layout.manifest_path(save_id), "0" * 64).encode()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return the folder of a run, which others may write to."""
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Return a stranger's folder, with files of any name; what is in it afterwards is what was there before."""
    folder = tmp_path / "home"
    (folder / "inner").mkdir(parents=True)
    for name in ("thesis.txt", "manifest.json", "__0_0.distcp", ".metadata", "inner/__0_1.distcp", "probe"):
        (folder / name).write_text(name)
    yield folder
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == {
        "thesis.txt", "manifest.json", "__0_0.distcp", ".metadata", "inner/__0_1.distcp", "probe",
    }  # fmt: skip
    assert all(path.read_text() == path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


# What a replacing save and `clean` delete.


def a_linked_folder(run: Path, home: Path) -> None:
    (run / f"data-{ID}").symlink_to(home)


def a_linked_folder_within(run: Path, home: Path) -> None:
    (run / f"data-{ID}").mkdir()
    (run / f"data-{ID}" / "inner").symlink_to(home)


def linked_files(run: Path, home: Path) -> None:
    (run / f"data-{ID}").mkdir()
    for name in ("manifest.json", "__0_0.distcp", "thesis.txt"):
        (run / f"data-{ID}" / name).symlink_to(home / name)


def hard_links(run: Path, home: Path) -> None:
    (run / f"data-{ID}").mkdir()
    for name in ("manifest.json", "__0_0.distcp"):
        (run / f"data-{ID}" / name).hardlink_to(home / name)


def a_linked_folder_above(run: Path, home: Path) -> None:
    (run / f"data-{ID}").symlink_to(home / "inner" / "..")


PLANTED = [a_linked_folder, a_linked_folder_within, linked_files, hard_links, a_linked_folder_above]


@pytest.mark.parametrize("plant", PLANTED)
@pytest.mark.parametrize("by", ["save", "clean"])
def test_what_is_removed_lies_in_the_checkpoint(
    run: Path, home: Path, plant: Callable[[Path, Path], None], by: str
) -> None:
    """E-C1."""
    plant(run, home)
    if by == "save":
        (run / ".metadata").write_bytes(metadata_of(ID))
        dcp_engine.save(state(2), run, overwrite=True)
        assert value_at(run) == 2
    else:
        dcp_engine.clean(run, older_than=timedelta(0))


def test_what_no_save_writes_stays_in_a_folder_that_is_removed(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """E-C1: a save id that names a folder of somebody's own."""
    folder = run / f"data-{ID}"
    (folder / "deep").mkdir(parents=True)
    for name in (
        "thesis.txt",
        "deep/__0_0.distcp",
        "__0_0.distcp.bak",
        "__٣_0.distcp",
        "__0_0.distcp",
        "manifest.json",
    ):
        (folder / name).write_text("x")
    (run / ".metadata").write_bytes(metadata_of(ID))
    dcp_engine.save(state(2), run, overwrite=True)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert left == {"thesis.txt", "deep/__0_0.distcp", "__0_0.distcp.bak", "__٣_0.distcp"}
    assert "thesis.txt" in caplog.text


def test_a_folder_that_becomes_a_link_between_the_look_and_the_removal(
    run: Path, home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """E-C1, the race."""
    folder = run / f"data-{ID}"
    folder.mkdir()
    (folder / "manifest.json").touch()
    (run / ".metadata").write_bytes(metadata_of(ID))
    delete = LocalStore.delete

    def swapped(store: LocalStore, paths: Any) -> None:
        if any(ID in path for path in paths):
            folder.rename(run / "aside")
            folder.symlink_to(home)
        delete(store, paths)

    monkeypatch.setattr(LocalStore, "delete", swapped)
    dcp_engine.save(state(2), run, overwrite=True)
    assert f"data-{ID}: is a symbolic link, which is not followed" in caplog.text
    assert value_at(run) == 2


def test_a_folder_that_is_a_mount_point_keeps_what_is_mounted(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    """E-C1."""
    folder = run / f"data-{ID}"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    try:
        (folder / "manifest.json").touch()
        (run / ".metadata").write_bytes(metadata_of(ID))
        dcp_engine.save(state(2), run, overwrite=True)
        assert (folder / "manifest.json").exists()
        assert "is a mount point" in caplog.text
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_of_a_stock_checkpoint_only_its_own_files_are_removed(run: Path, home: Path) -> None:
    """E-C1: `.metadata` by stock DCP, its data files links."""
    dcp.save(state(1), checkpoint_id=run, no_dist=True)
    (run / "__0_0.distcp").unlink()
    (run / "__0_0.distcp").symlink_to(home / "__0_0.distcp")
    (run / "__0_7.distcp").touch()
    dcp_engine.save(state(2), run, overwrite=True)
    assert not os.path.lexists(run / "__0_0.distcp")
    assert (run / "__0_7.distcp").exists()


@pytest.mark.parametrize("plant", PLANTED)
def test_fsspec_follows_no_link_either(
    run: Path, home: Path, monkeypatch: pytest.MonkeyPatch, plant: Callable[[Path, Path], None]
) -> None:
    """E-C1."""
    store = FsspecStore(f"file://{run}", {})
    monkeypatch.setattr("dcp_engine.saving.open_store", lambda *_: store)
    plant(run, home)
    (run / ".metadata").write_bytes(metadata_of(ID))
    dcp_engine.save(state(2), run, overwrite=True)
    assert value_at(run) == 2


@pytest.mark.parametrize("save_id", ["../../home", f"{ID}/../../home", "", ID.upper(), f"{ID}\n", 7, None, [ID]])
def test_a_save_id_is_one_of_ours_or_damage(run: Path, save_id: Any) -> None:
    """E-C1."""
    trailer = layout.Trailer(save_id, f"data-{save_id}/manifest.json", "0" * 64)
    (run / ".metadata").write_bytes(b"\x80\x04N." + trailer.encode())
    with pytest.raises(CheckpointCorrupted, match=r"\.metadata"):
        dcp_engine.find(run)
    dcp_engine.save(state(2), run, overwrite=True)
    assert value_at(run) == 2


# What is read.


def fifo(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)
        one.bind(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def node(path: Path) -> None:
    try:
        os.mknod(path, 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("device nodes need root")


def link(path: Path) -> None:
    path.symlink_to(f"{path.name}.aside")


def dangling(path: Path) -> None:
    path.symlink_to("nowhere")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.mkdir()


SPECIAL = [fifo, bound, device, node, link, dangling, loop, folder]


@pytest.mark.parametrize("name", [".metadata", "manifest.json", "blocks.crc32c", "__0_0.distcp"])
@pytest.mark.parametrize("make", SPECIAL)
def test_what_is_no_file_is_refused_at_once(
    run: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], name: str
) -> None:
    """E-C1, E-S2."""
    monkeypatch.chdir(run)  # and back afterwards
    dcp_engine.save(state(1), run)
    (path,) = run.rglob(name)
    path.rename(path.with_name(f"{name}.aside"))
    make(path)
    for look in (value_at, dcp_engine.verify):
        with pytest.raises(CheckpointCorrupted, match=name):
            look(run)
    if name == ".metadata":
        for again in (dcp_engine.find, dcp_engine.clean, lambda url: dcp_engine.save(state(2), url)):
            with pytest.raises(CheckpointCorrupted, match=r"\.metadata: is an? "):
                again(run)
        with pytest.raises(CheckpointCorrupted, match=r"\.metadata: is an? "):
            dcp_engine.save(state(2), run, overwrite=True)
        assert len(list(run.glob("data-*"))) == 1
    else:
        dcp_engine.save(state(2), run, overwrite=True)
        assert value_at(run) == 2


def test_a_linked_data_folder_is_not_read(run: Path) -> None:
    """E-C1: a folder on the way, as the file itself."""
    dcp_engine.save(state(1), run)
    (data,) = run.glob("data-*")
    data.rename(run / "aside")
    data.symlink_to("aside")
    for look in (value_at, dcp_engine.verify, dcp_engine.inspect):
        with pytest.raises(CheckpointCorrupted, match="is a symbolic link, which is not followed"):
            look(run)


@pytest.mark.parametrize(
    "path",
    ["../x", "/etc/passwd", "data/../../x", "a//b", "./a", "a\0b", "a/"],
)
def test_a_path_that_leads_out_is_refused(run: Path, path: str) -> None:
    """E-S2."""
    store = LocalStore(str(run))
    steps: list[Callable[[], object]] = [
        lambda: store.read(path),
        lambda: list(store.fill(path, 0, [memoryview(bytearray(1))])),
        lambda: store.write(path, [b"x"], part_size=1, parallel=1),
        lambda: store.create(path, b"x"),
        lambda: store.replace(path, b"x", None),
        lambda: store.delete([path]),
    ]
    for step in steps:
        with pytest.raises(CheckpointCorrupted, match="is no path below the checkpoint"):
            step()
    assert list(run.iterdir()) == []


def test_a_range_behind_the_end_fails_before_it_is_read(run: Path) -> None:
    """E-S3."""
    store = LocalStore(str(run))
    store.write("x", [b"12345678"], part_size=1, parallel=1)
    filled = store.fill("x", 4, [memoryview(bytearray(4)), memoryview(bytearray(1))])
    assert bytes(next(filled)) == b"5678"
    with pytest.raises(EOFError):
        next(filled)


def test_a_root_that_is_a_link_is_what_the_user_named(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "here").symlink_to("disk")
    dcp_engine.save(state(1), tmp_path / "here" / "run")
    (tmp_path / "latest").symlink_to("disk/run")
    assert value_at(tmp_path / "latest") == 1
    dcp_engine.save(state(2), tmp_path / "latest", overwrite=True)
    assert value_at(tmp_path / "disk" / "run") == 2


# What is written.


def test_a_data_folder_that_becomes_a_link_under_a_save(run: Path, home: Path) -> None:
    """E-C1."""
    store = LocalStore(str(run))
    (run / f"data-{ID}").symlink_to(home)
    with pytest.raises(CheckpointCorrupted, match="is a symbolic link"):
        store.write(layout.data_path(ID, 0, 0), [b"x"], part_size=1, parallel=1)
    with pytest.raises(CheckpointCorrupted, match="is a symbolic link"):
        store.create(layout.manifest_path(ID), b"x")


@pytest.mark.parametrize("make", [link, dangling, fifo])
def test_a_name_that_is_taken_is_never_written_through(run: Path, make: Callable[[Path], None]) -> None:
    """E-C1: the names of a save can't be known beforehand; were they, nothing would be written to what stands there."""
    (run / "x.aside").write_text("kept")
    make(run / "x")
    store = LocalStore(str(run))
    with pytest.raises(FileExistsError):
        store.write("x", [b"new"], part_size=1, parallel=1)
    with pytest.raises(FileExistsError):
        store.create("x", b"new")
    assert (run / "x.aside").read_text() == "kept"
    assert not (run / "nowhere").exists()
    assert sorted(path.name for path in run.iterdir()) == ["x", "x.aside"]


@pytest.mark.parametrize("target", ["taken", "nowhere"])
def test_a_linked_commit_is_no_way_to_write_elsewhere(run: Path, tmp_path: Path, target: str) -> None:
    """E Minor: a dangling link made a save give up after twenty tries."""
    (tmp_path / "taken").write_text("kept")
    (run / ".metadata").symlink_to(tmp_path / target)
    for overwrite in (False, True):
        with pytest.raises(CheckpointCorrupted, match=r"\.metadata: is a symbolic link, which is not followed"):
            dcp_engine.save(state(1), run, overwrite=overwrite)
    assert (tmp_path / "taken").read_text() == "kept"
    assert not (tmp_path / "nowhere").exists()
    assert [path.name for path in run.iterdir()] == [".metadata"]


# What can't be read.


def test_a_folder_that_can_not_be_read_is_no_empty_one(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """E Minor."""
    dcp_engine.save(state(1), run)
    (run / "lost+found").mkdir()
    (data,) = run.glob("data-*")
    scan = os.scandir

    def denied(of: Any) -> Any:
        there = str(Path(f"/proc/self/fd/{of}").readlink()) if isinstance(of, int) else str(of)
        if there in {str(data), str(run / "lost+found")}:
            raise PermissionError(13, "Permission denied", there)
        return scan(of)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(EngineError, match="Permission denied"):
        dcp_engine.verify(run)
    with pytest.raises(EngineError, match="Permission denied"):
        dcp_engine.clean(run)
    with pytest.raises(PermissionError):
        protocol.remove_save(LocalStore(str(run)), data.name.removeprefix("data-"))
    data.rename(run / "aside")
    assert dcp_engine.clean(run) == []


def test_a_taken_url_is_refused_as_ever(run: Path) -> None:
    dcp_engine.save(state(1), run)
    with pytest.raises(CheckpointExists):
        dcp_engine.save(state(2), run)
    assert {path for path, _ in folders.walk(run)} == {
        path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()
    }


@pytest.mark.parametrize(("umask", "file", "folder"), [(0o022, 0o644, 0o755), (0o077, 0o600, 0o700)], ids=oct)
def test_files_and_folders_have_the_mode_that_the_umask_leaves(
    tmp_path: Path, umask: int, file: int, folder: int
) -> None:
    """E-Minor: who may read the weights is the user's to say, after a replacement too."""
    before = os.umask(umask)
    try:
        for value in (1, 2):
            dcp_engine.save({"w": torch.full((70_000,), float(value))}, tmp_path / "runs" / "1", overwrite=True)
    finally:
        os.umask(before)
    made = [tmp_path / "runs", *(tmp_path / "runs").rglob("*")]
    modes = {path: path.stat().st_mode & 0o777 for path in made}
    assert modes == {path: folder if path.is_dir() else file for path in made}
