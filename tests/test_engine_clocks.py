"""Hosts whose clocks are hours apart: what is due, and what is old, is judged by the clock that dates the files."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import pytest
import torch

import dcp_engine
import s3_server
from cluster.processes import until
from dcp_engine.commit import replaced
from dcp_engine.errors import StorageDenied
from dcp_engine.format import layout
from dcp_engine.stores.local_store import LocalStore
from dcp_engine.stores.opening import open_store

pytestmark = pytest.mark.tier("ranks")

HOUR = timedelta(hours=1)
NONE = timedelta(0)
APART = pytest.mark.parametrize("hours", [-1000, -3, 3, 1000], ids=lambda hours: f"{hours:+} h")
Host = Callable[[float], None]


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    """Return what sets this host's clock, as the engine sees it, so many hours ahead."""

    def ahead(hours: float) -> None:
        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Self:
                return super().now(tz) + timedelta(hours=hours)

        for name, module in list(sys.modules.items()):
            if name.startswith("dcp_engine") and hasattr(module, "datetime"):
                monkeypatch.setattr(module, "datetime", Shifted)

    return ahead


@dataclass(frozen=True)
class Place:
    """One checkpoint's URL."""

    url: str
    options: dict[str, Any]

    def save(self, value: float, keep: timedelta) -> str:
        made = dcp_engine.save(
            {"w": torch.full((700,), value)}, self.url, storage_options=self.options, overwrite=True, keep_replaced=keep
        )
        return made.save_id

    def clean(self, **options: Any) -> set[str]:
        """Clean up; return of which saves something went."""
        gone = dcp_engine.clean(self.url, storage_options=self.options, **options)
        return {path.partition("/")[0].removeprefix("data-") for path in gone if path.startswith("data-")}

    def begun(self) -> str:
        """Leave what a save has written so far that is on its way; return its id."""
        save_id = layout.new_save_id()
        store = open_store(self.url, self.options)
        store.write(layout.data_path(save_id, 0, 0), [b"half"], part_size=9, parallel=1)
        return save_id


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path, s3: s3_server.S3Server) -> Place:
    if request.param == "local":
        return Place(str(tmp_path / "it"), {})
    return Place(s3.url(tmp_path.name), s3.options)


@APART
def test_a_clean_up_takes_nothing_that_is_kept_or_being_written(place: Place, host: Host, hours: float) -> None:
    place.save(1, NONE)
    place.save(2, HOUR)
    place.begun()
    host(hours)
    assert place.clean() == set()


@APART
def test_a_clean_up_takes_what_is_due(place: Place, host: Host, hours: float) -> None:
    place.save(1, NONE)
    second = place.save(2, timedelta(microseconds=1))
    place.begun()
    host(hours)

    def stays() -> set[str]:
        place.clean(older_than=NONE)
        return {entry.path.partition("/")[0] for entry in open_store(place.url, place.options).list("")}

    # Some stores know whole seconds only.
    until(lambda: stays() == {layout.METADATA, layout.data_folder(second)}, "nothing that is due", seconds=10)


@APART
def test_a_saver_takes_nothing_that_is_kept(place: Place, host: Host, hours: float) -> None:
    ids = [place.save(1, NONE), place.save(2, HOUR)]
    host(hours)
    ids.append(place.save(3, HOUR))
    host(-hours)
    assert place.clean(dry_run=True) == set()
    assert place.clean(keep_replaced=NONE) == {ids[0], ids[1]}


def test_whoever_may_only_delete_takes_nothing_that_is_kept(
    tmp_path: Path, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the store's time, the newest file's is the latest that is known to have been."""

    def denied(_: LocalStore) -> datetime:
        raise StorageDenied("read-only")

    place = Place(str(tmp_path), {})
    place.save(1, NONE)
    second = place.save(2, HOUR)
    left = place.begun()
    monkeypatch.setattr(LocalStore, "now", denied)
    host(1000)
    assert place.clean() == set()
    for file in (tmp_path / layout.data_folder(left)).iterdir():
        os.utime(file, (0, 0))
    assert place.clean() == {left}
    assert dcp_engine.inspect(tmp_path).save_id == second


def test_the_time_is_learnt_on_a_full_disk_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Place(str(tmp_path), {})
    place.save(1, NONE)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(os, "open", _opening_only(os.open))
    assert abs(open_store(place.url).now().timestamp() - (tmp_path / layout.METADATA).stat().st_mtime) < 600
    assert sorted(tmp_path.rglob("*")) == before
    assert not (missing := tmp_path / "missing").exists()
    assert dcp_engine.clean(missing) == []
    assert not missing.exists()


def _opening_only(step: Callable[..., int]) -> Callable[..., int]:
    def opening(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(28, "No space left on device")
        return step(path, flags, *args, **options)

    return opening


def test_what_is_replaced_under_a_clean_up_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old tombstone of what stands, by a save that came to nothing, says nothing once it is replaced and kept."""
    place = Place(str(tmp_path), {})
    first = place.save(1, NONE)
    replaced.mark(open_store(place.url), first, by="a" * 32, keep=NONE)
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, 0))
    read = LocalStore.read

    def overtaken(store: LocalStore, path: str, **options: Any) -> Any:
        if path == layout.METADATA:
            monkeypatch.setattr(LocalStore, "read", read)
            place.save(2, HOUR)
        return read(store, path, **options)

    monkeypatch.setattr(LocalStore, "read", overtaken)
    assert place.clean() == set()
    assert (tmp_path / layout.data_folder(first)).exists()
