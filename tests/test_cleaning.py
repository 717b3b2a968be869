"""A clean-up of a prefix, what it spares while others write, and a dry run, which asks and changes nothing."""

import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

import dcp_engine
import flaky_proxy
import s3_server
from dcp_engine.cleanup import cleaned
from dcp_engine.commit import leftovers, replaced
from dcp_engine.commit.leftovers import Leftover, LeftoverKind
from dcp_engine.errors import CheckpointCorrupted
from dcp_engine.stores.opening import open_store

pytestmark = pytest.mark.tier("ranks")

GOLDEN = max((Path(__file__).parent / "golden").glob("torch-*/engine"))
NONE = timedelta(0)
IDS = [f"{number:032x}" for number in range(9)]


@pytest.mark.parametrize(
    ("path", "root"),
    [
        (f"run/step-1/data-{IDS[1]}/__0_0.distcp", "run/step-1"),
        (f"data-{IDS[1]}/__0_0.distcp", ""),
        (f"run/data-probe-{IDS[1]}/probe", "run"),
        (f"run/replaced/{IDS[1]}.{IDS[2]}", "run"),
        (f"run/replaced/{IDS[1]}.{IDS[2]}.{IDS[3]}.tmp", "run"),
        ("run/step-1/.metadata", "run/step-1"),
        (f"run/step-1/.metadata.{IDS[1]}.tmp", "run/step-1"),
        ("model.safetensors.index.json", ""),
        (f"x/model-{IDS[1]}-00001-of-00002.safetensors", "x"),
        (f"a/data-{IDS[1]}/b/data-{IDS[2]}/__0_0.distcp", "a"),
        ("run/data-2024/part-0.parquet", None),
        ("run/replaced/old.txt", None),
        ("run/step-1/__0_0.distcp", None),
        ("x/model.safetensors", None),
    ],
)
def test_whose_a_file_below_a_prefix_is(path: str, root: str | None) -> None:
    assert leftovers.root_of(path) == root


def test_a_prefix_is_cleaned_at_every_url_below_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(GOLDEN, tmp_path / "run/step-1")
    shutil.copytree(GOLDEN, tmp_path / "run/damaged")
    (tmp_path / "run/damaged/.metadata").write_bytes(b"cut off")
    stays = _files(tmp_path)
    goes = [
        f"run/step-1/data-{IDS[1]}/__0_0.distcp",
        f"run/step-2/data-{IDS[2]}/__0_0.distcp",
        f"run/step-2/data-{IDS[2]}/blocks.crc32c",
        f"data-probe-{IDS[3]}/probe",
        f"model/model-{IDS[4]}-00001-of-00001.safetensors",
    ]
    strange = [f"run/step-2/data-{IDS[2]}/mine.txt", "run/data-2024/part-0.parquet", f"run/damaged/data-{IDS[5]}/probe"]
    for name in (*goes, *strange):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12345678")
        os.utime(tmp_path / name, (0, 0))
    young = f"run/step-3/data-{IDS[6]}/__0_0.distcp"
    (tmp_path / young).parent.mkdir(parents=True)
    (tmp_path / young).write_bytes(b"is being saved")
    store = open_store(str(tmp_path / "run/step-1"))
    replaced.mark(store, IDS[7], by=IDS[8], keep=NONE)
    due = f"run/step-1/replaced/{IDS[7]}.{IDS[8]}"
    before = _files(tmp_path)
    told = cleaned(str(tmp_path), dry_run=True, recursive=True)
    stone = (tmp_path / due).stat().st_size
    what = (
        f"2 orphaned saves (24 B), 1 replaced save ({stone} B), 1 orphaned export (8 B), 1 draft (8 B); passed over "
        "for damage: 1"
    )
    assert told.words().startswith("Would remove ")
    assert _files(tmp_path) == before
    items: list[Leftover] = []
    done = cleaned(str(tmp_path), recursive=True, on_item=items.append)
    assert {path for each in done.leftovers for path in each.paths} == {*goes, due}
    assert [each.kind for each in items] == [each.kind for each in done.leftovers]
    assert done.words() == told.words().replace("Would remove", "Removed") == f"Removed {what}"
    assert (done.files, done.bytes, done.passed_over) == (6, 40 + stone, 1)
    assert _files(tmp_path) == sorted({*stays, *strange, young})
    assert "damaged is passed over" in caplog.text
    with pytest.raises(CheckpointCorrupted):
        dcp_engine.clean(tmp_path / "run/damaged")


def test_a_dry_run_on_a_server_is_a_reader(s3: s3_server.S3Server, tmp_path: Path) -> None:
    """By what the server answered; its own clock is asked for, too."""
    url = s3.url(tmp_path.name)
    files = [f"step-1/data-{IDS[1]}/__0_0.distcp", f"step-2/data-{IDS[2]}/__0_0.distcp"]
    for name in files:
        open_store(url, s3.options).write(name, [b"1234"], part_size=99, parallel=1)
    # moto says that every upload began in 2010.
    upload = f"step-2/data-{IDS[3]}/__0_0.distcp"
    s3.client().create_multipart_upload(Bucket=s3.bucket, Key=f"{tmp_path.name}/{upload}")
    with flaky_proxy.before(s3) as flaky:
        options = flaky.server.options
        assert dcp_engine.clean(url, storage_options=options, dry_run=True, recursive=True) == [upload]
        told = dcp_engine.clean(url, storage_options=options, older_than=NONE, dry_run=True, recursive=True)
        assert told == sorted([*files, upload])
        assert {method for method, _, _ in flaky.answered} == {"GET", "HEAD"}
        assert dcp_engine.clean(url, storage_options=options, older_than=NONE, recursive=True) == told
    assert s3.keys(f"{tmp_path.name}/") == []
    assert s3.uploads(f"{tmp_path.name}/") == []


@pytest.mark.adversary
def test_an_upload_that_gets_parts_is_alive_and_a_strangers_is_none_of_ours(
    s3: s3_server.S3Server, tmp_path: Path
) -> None:
    """However long ago they began: a file of 32 GiB takes its time."""
    ours, alive, strange = f"data-{IDS[1]}/__0_0.distcp", f"data-{IDS[2]}/__0_0.distcp", "data-2024/part-0.parquet"
    client = s3.client()
    for name in (ours, alive, strange):
        place = {"Bucket": s3.bucket, "Key": f"{tmp_path.name}/{name}"}
        upload = client.create_multipart_upload(**place)["UploadId"]
        if name is alive:
            client.upload_part(**place, UploadId=upload, PartNumber=1, Body=b"part")
    assert dcp_engine.clean(s3.url(tmp_path.name), storage_options=s3.options) == [ours]
    found = cleaned(s3.url(tmp_path.name), storage_options=s3.options, older_than=NONE)
    assert [(each.name, each.bytes) for each in found.leftovers] == [(alive, 4)]
    assert s3.uploads(f"{tmp_path.name}/") == [f"{tmp_path.name}/{strange}"]


@pytest.mark.adversary
def test_the_files_of_a_save_that_uploads_another_are_spared(tmp_path: Path) -> None:
    (tmp_path / f"data-{IDS[1]}").mkdir()
    (tmp_path / f"data-{IDS[1]}/__0_0.distcp").write_bytes(b"1")
    store = open_store(str(tmp_path))
    age, entries = leftovers.Age(store.now() + timedelta(days=1), NONE, None), [*store.list("")]
    assert leftovers.found(store, entries, age, {f"data-{IDS[1]}"}, ()) == []
    (found,) = leftovers.found(store, entries, age, set(), ())
    assert (found.kind, found.name) == (LeftoverKind.ORPHAN, f"data-{IDS[1]}")


def _commit(folder: Path) -> None:
    shutil.copy(GOLDEN / ".metadata", folder)


def _go_on(folder: Path) -> None:
    next(folder.glob("data-*/*.distcp")).touch()


def _come_back(folder: Path) -> None:
    for stone in folder.glob("replaced/*"):
        stone.unlink()


@pytest.mark.adversary
@pytest.mark.parametrize("meanwhile", [_commit, _go_on, _come_back])
def test_a_copy_that_is_taken_up_under_a_clean_up_keeps_its_files(
    meanwhile: Callable[[Path], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was killed a day ago. Another cluster's copy commits, goes on, or forgets the tombstone, after the listing."""
    place = tmp_path / "copy"
    shutil.copytree(GOLDEN, place)
    (place / ".metadata").unlink()
    for file in place.rglob("*.*"):
        os.utime(file, (0, 0))
    (folder,) = place.glob("data-*")
    if meanwhile is _come_back:
        replaced.mark(open_store(str(place)), folder.name.removeprefix("data-"), by=IDS[1], keep=NONE)
    assert dcp_engine.clean(place, dry_run=True), "it would go"
    look = leftovers.found

    def overtaken(*args: object) -> object:
        found = look(*args)  # type: ignore[arg-type] # as they came
        meanwhile(place)
        return found

    monkeypatch.setattr(leftovers, "found", overtaken)
    assert dcp_engine.clean(place) == []
    _commit(place)
    assert dcp_engine.verify(place).save_id == folder.name.removeprefix("data-")


def test_a_dry_run_takes_the_time_from_the_server(s3: s3_server.S3Server, tmp_path: Path) -> None:
    """Within the second in which the server itself dates a file."""
    store = open_store(s3.url(tmp_path.name), s3.options)
    told = store.told_time()  # type: ignore[attr-defined] # of object stores
    assert abs(told - store.now()) < timedelta(seconds=60)


def _files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
