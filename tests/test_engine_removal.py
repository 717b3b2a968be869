"""`delete`: what goes, what stays, and what readers and savers see meanwhile."""

import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest
import torch
import torch.distributed.checkpoint as dcp

import dcp_engine
import flaky_proxy
import s3_server
from dcp_contract.checkpoint_info import Origin
from dcp_engine import failpoints
from dcp_engine.errors import (
    CheckpointCorrupted,
    CheckpointNotFound,
    EngineError,
    InvalidOption,
    SaveMismatch,
    StorageDenied,
    StorageFull,
)
from dcp_engine.format import layout
from dcp_engine.stores import object_store
from dcp_engine.stores.opening import open_store
from dcp_engine.stores.protocol import ATOMIC, BEST_EFFORT
from engine_places import Place, race_loads, race_saves

pytestmark = [pytest.mark.tier("ranks"), pytest.mark.filterwarnings("ignore:torch.distributed is disabled")]

HOUR: Final = timedelta(hours=1)
OTHER: Final = "f" * 32


@pytest.fixture(params=["file", "s3", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "s3":
        server: s3_server.S3Server = request.getfixturevalue("s3")
        return Place(server.url(f"{tmp_path.name}/run"), server.options)
    return Place(f"memory://{tmp_path.name}/run" if request.param == "memory" else str(tmp_path / "run"), None)


@pytest.fixture
def hooked() -> Iterator[None]:
    yield
    failpoints.hook = None


# What goes, and what stays.


def test_the_checkpoint_goes_whole_and_strangers_files_stay(place: Place) -> None:
    place.save(1)
    place.save(2, overwrite=True, keep_replaced=HOUR)
    kept = place.save(3, overwrite=True, keep_replaced=HOUR)
    mine = [f"data-{kept}/notes.txt", "notes.txt", f"replaced/{OTHER}.txt"]
    for path in mine:
        place.put(path)
    removed = place.delete(kept)
    assert (removed.save_id, removed.files, removed.step) == (kept, 1, None)
    assert place.files() == sorted(mine)
    with pytest.raises(CheckpointNotFound):
        place.load()


def test_nothing_is_left_of_an_url_that_was_only_ours(place: Place, tmp_path: Path) -> None:
    """A run that keeps the last three of a thousand has no thousand empty folders."""
    place.at("step-1").delete(place.at("step-1").save(1))
    assert place.files() == []
    assert list(open_store(place.url, place.options).folders()) == []
    assert not (tmp_path / "run" / "step-1").exists()


def test_only_the_save_that_was_named_goes(place: Place) -> None:
    first = place.save(1)
    second = place.save(2, overwrite=True)
    for named in (first, OTHER):
        with pytest.raises(SaveMismatch, match=f"holds save {second} by an unknown saver on .*{named}") as caught:
            place.delete(named)
        assert caught.value.holder.save_id == second
    assert place.load() == 2


def test_only_what_an_object_has_saved_goes(place: Place) -> None:
    """Whoever does not know whether it has committed names it: by its uid, whatever its run."""
    mine, other = (Origin(namespace="team", name="save", uid=uid, run_id="2") for uid in ("uid-1", "uid-2"))
    for origin in (other, None):
        place.save(1, overwrite=True, origin=origin)
        with pytest.raises(SaveMismatch, match=r"to be removed \(by the Checkpoint of uid uid-1\)"):
            place.delete(saved_by="uid-1")
    save_id = place.save(2, overwrite=True, origin=mine)
    assert place.delete(saved_by="uid-1").save_id == save_id
    assert place.delete(saved_by="uid-1") is None
    assert place.files() == []


def test_a_save_whose_manifest_is_damaged_is_nobodys(place: Place) -> None:
    save_id = place.save(1, origin=Origin(uid="uid-1"))
    store, manifest = open_store(place.url, place.options), f"data-{save_id}/manifest.json"
    store.delete([manifest])
    with pytest.raises(CheckpointCorrupted, match="nobody can tell who saved it"):
        place.delete(saved_by="uid-1")
    place.put(manifest, b"{}")
    with pytest.raises(CheckpointCorrupted):
        place.delete(saved_by="uid-1")
    assert layout.METADATA in place.files()


def test_a_removal_may_be_repeated(place: Place) -> None:
    save_id = place.save(1)
    assert place.delete(save_id) is not None
    assert place.delete(save_id) is None
    with pytest.raises(CheckpointNotFound):
        place.delete()
    assert place.save(2)
    assert place.load() == 2


def test_without_a_save_id_whatever_stands_there_goes(place: Place) -> None:
    save_id = place.save(1)
    assert place.delete().save_id == save_id
    assert place.files() == []


def test_a_save_id_that_can_not_be_one_is_refused(tmp_path: Path) -> None:
    for wrong in ("", "../../etc", "A" * 32, "a" * 31):
        with pytest.raises(InvalidOption, match="32 hexadecimal digits"):
            dcp_engine.delete(tmp_path, wrong)


def test_a_stock_checkpoint_goes_only_where_no_save_is_named(tmp_path: Path) -> None:
    """It has no id; its files are those that its `.metadata` names."""
    dcp.save({"w": torch.ones(9)}, checkpoint_id=tmp_path / "it", no_dist=True)
    (tmp_path / "it" / "__7_0.distcp").write_bytes(b"somebody's")
    with pytest.raises(SaveMismatch, match="holds a save by stock DCP"):
        dcp_engine.delete(tmp_path / "it", OTHER)
    removed = dcp_engine.delete(tmp_path / "it")
    assert removed is not None
    assert removed.save_id == ""
    assert [path.name for path in (tmp_path / "it").rglob("*")] == ["__7_0.distcp"]


def test_what_a_damaged_checkpoint_needs_nobody_can_tell(place: Place) -> None:
    place.save(1)
    store = open_store(place.url, place.options)
    blob = store.read(layout.METADATA)
    store.replace(layout.METADATA, blob.data[:-9], blob.version)
    before = place.files()
    with pytest.raises(CheckpointCorrupted):
        place.delete()
    assert place.files() == before


def test_a_full_disk_is_made_room_on(tmp_path: Path) -> None:
    """There is no room for a tombstone either."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], check=False).returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        place = Place(f"{small}/checkpoint", None)
        save_id = place.save(1)
        with suppress(OSError), (small / "full").open("wb", buffering=0) as file:
            while file.write(bytes(1 << 12)):
                pass
        with pytest.raises(StorageFull):
            place.save(2, overwrite=True)
        assert place.delete(save_id) is not None
        assert [path.name for path in small.iterdir()] == ["full"]
    finally:
        subprocess.run(["umount", str(small)], check=True)


# Who reads and saves meanwhile.


@pytest.mark.usefixtures("hooked")
@pytest.mark.parametrize(("point", "loads"), [("before removal", 1), ("unlisted", None)])
def test_a_load_under_a_removal_is_whole_or_raises(place: Place, point: str, loads: int | None) -> None:
    save_id = place.save(1)
    seen: list[int | type] = []

    def hook(reached: str) -> None:
        if reached == point:
            failpoints.hook = None
            try:
                seen.append(place.load())
            except EngineError as error:
                seen.append(type(error))

    failpoints.hook = hook
    place.delete(save_id)
    assert seen == [loads or CheckpointNotFound]


@pytest.mark.usefixtures("hooked")
def test_a_removal_under_a_load_ends_the_load(place: Place) -> None:
    save_id = place.save(1)

    def hook(reached: str) -> None:
        if reached == "reading":
            failpoints.hook = None
            place.delete(save_id)

    failpoints.hook = hook
    with pytest.raises(CheckpointNotFound):
        place.load()


@pytest.mark.usefixtures("hooked")
def test_what_replaces_a_checkpoint_under_its_removal_is_spared(place: Place) -> None:
    """The store compares, and the reader of what was replaced has the hour that the save gave him."""
    save_id = place.save(1)
    data = f"data-{save_id}/__0_0.distcp"

    def hook(reached: str) -> None:
        if reached == "before removal":
            failpoints.hook = None
            place.save(2, overwrite=True, keep_replaced=HOUR)

    failpoints.hook = hook
    with pytest.raises(SaveMismatch):
        place.delete()
    assert place.load() == 2
    assert data in place.files()
    dcp_engine.clean(place.url, storage_options=place.options)
    assert data in place.files()
    stones = [path for path in place.files() if path.startswith(layout.REPLACED)]
    assert len(stones) == 1, "the tombstone of a removal that came to nothing is gone"


@pytest.mark.usefixtures("hooked")
def test_what_is_saved_after_a_removal_began_is_spared(place: Place) -> None:
    save_id = place.save(1)

    def hook(reached: str) -> None:
        if reached == "unlisted":
            failpoints.hook = None
            place.save(2)
            place.save(3, overwrite=True, keep_replaced=HOUR)

    failpoints.hook = hook
    place.delete(save_id)
    assert place.load() == 3
    assert len([path for path in place.files() if path.endswith(".distcp")]) == 2, "and what it replaced is kept"


@pytest.mark.parametrize("rounds", [50, pytest.param(200, marks=pytest.mark.tier("matrix"))])
def test_removals_race_with_loads_of_the_same_checkpoint(tmp_path: Path, rounds: int) -> None:
    ends = race_loads(Place(str(tmp_path / "it"), None), rounds)
    print(ends)
    assert sum(ends.values()) == 2 * rounds


def test_removals_race_with_saves_that_replace_the_checkpoint(tmp_path: Path) -> None:
    ends = race_saves(Place(str(tmp_path / "it"), None), 100)
    print(ends)
    assert sum(ends.values()) == 100


# What a store's refusal is worth.


@pytest.fixture
def proxy(s3: s3_server.S3Server) -> Iterator[flaky_proxy.FlakyProxy]:
    """Return a store that is yet to be tried out."""
    object_store._guards.clear()
    with flaky_proxy.before(s3) as proxy:
        yield proxy


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("ignored", "unknown", "guard"), [("", "", ATOMIC), ("if-match", "", BEST_EFFORT), ("", "if-match", BEST_EFFORT)]
)
def test_a_result_says_whether_the_store_compares(
    proxy: flaky_proxy.FlakyProxy, tmp_path: Path, ignored: str, unknown: str, guard: str
) -> None:
    """E-M3 b: a look comes before the removal where the store does not compare."""
    proxy.ignored, proxy.unknown = frozenset(ignored.split()), frozenset(unknown.split())
    place = Place(proxy.server.url(tmp_path.name), proxy.server.options)
    save_id = place.save(1)
    with pytest.raises(SaveMismatch):
        place.delete(OTHER)
    assert place.load() == 1
    assert place.delete(save_id).conflict_guard == guard
    assert place.files() == []


@pytest.mark.adversary
def test_a_removal_whose_answer_got_lost_has_happened(proxy: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    place = Place(proxy.server.url(tmp_path.name), proxy.server.options)
    save_id = place.save(1)
    proxy.rule = flaky_proxy.once("lose answer", "DELETE", layout.METADATA)
    assert place.delete(save_id).save_id == save_id
    assert "lose answer" in proxy.faults
    assert place.files() == []


@pytest.mark.adversary
def test_a_removal_that_is_cut_short_says_what_is_left(proxy: flaky_proxy.FlakyProxy, tmp_path: Path) -> None:
    place = Place(proxy.server.url(tmp_path.name), proxy.server.options | {"max_attempts": 1})
    save_id = place.save(1)
    proxy.rule = lambda _method, path: "403" if path.endswith("?delete") else None
    with pytest.raises(StorageDenied, match="nothing is committed there any more; delete it again"):
        place.delete(save_id)
    proxy.rule = lambda *_: None
    with pytest.raises(CheckpointNotFound):
        place.load()
    assert place.files() != []
    assert place.delete(save_id) is None
    assert place.files() == []
