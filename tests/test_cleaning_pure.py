"""What a clean-up spares and passes over; needs no torch, and no server."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from dcp_engine.cleanup import cleaned
from dcp_engine.commit import leftovers
from dcp_engine.format import safetensors
from dcp_engine.format.safetensors import ModelIndex
from dcp_engine.stores.protocol import Entry, Store
from dcp_engine.stores.uploads import Uploads

OLD = datetime.fromtimestamp(0, UTC)
IDS = [f"{number:032x}" for number in range(4)]


def old(path: Path) -> Path:
    """Make a file of long ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345678")
    os.utime(path, (0, 0))
    return path


@pytest.mark.adversary
def test_an_export_that_goes_on_under_a_clean_up_keeps_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its host slept for a day, and it commits after the listing. Another one's shards go all the same."""
    goes, stays = (old(tmp_path / safetensors.shard_name(each, 1, 1)) for each in IDS[:2])
    look = leftovers.found

    def overtaken(*args: object) -> object:
        found = look(*args)  # type: ignore[arg-type] # as they came
        index = ModelIndex(files={"w": stays.name}, export_id=IDS[1])
        (tmp_path / safetensors.INDEX).write_bytes(index.encode())
        return found

    assert {each.name for each in cleaned(tmp_path, dry_run=True).leftovers} == set(IDS[:2])
    monkeypatch.setattr(leftovers, "found", overtaken)
    assert [each.paths for each in cleaned(tmp_path).leftovers] == [(goes.name,)]
    assert stays.exists()
    assert not goes.exists()


@pytest.mark.adversary
def test_a_name_that_no_url_has_holds_up_nobody_else(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    goes = old(tmp_path / f"run/step-1/data-{IDS[1]}/__0_0.distcp")
    stays = old(tmp_path / f"run/a::b/data-{IDS[2]}/__0_0.distcp")
    found = cleaned(tmp_path, recursive=True)
    assert [each.paths for each in found.leftovers] == [(str(goes.relative_to(tmp_path)),)]
    assert found.passed_over == 1
    assert "a::b is passed over" in caplog.text
    assert stays.exists()


@pytest.mark.adversary
@pytest.mark.parametrize("size", ["Infinity", "-Infinity", "1e999", "NaN"])
def test_an_index_that_is_none_holds_up_nobody_else(tmp_path: Path, size: str) -> None:
    goes = old(tmp_path / "one" / safetensors.shard_name(IDS[1], 1, 1))
    stays = old(tmp_path / "other" / safetensors.shard_name(IDS[2], 1, 1))
    stays.with_name(safetensors.INDEX).write_text(f'{{"metadata": {{"total_size": {size}}}, "weight_map": {{}}}}')
    found = cleaned(tmp_path, recursive=True)
    assert [each.paths for each in found.leftovers] == [(str(goes.relative_to(tmp_path)),)]
    assert found.passed_over == 1
    assert stays.exists()


def test_what_lies_below_a_prefix_is_not_held_at_each_url_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A probe that was killed at the prefix makes that an URL to clean, above millions of files."""
    ours = [
        f"data-probe-{IDS[1]}/probe",
        f"data-{IDS[1]}/__0_0.distcp",
        f"data-{IDS[1]}/mine.txt",
        f"replaced/{IDS[1]}.{IDS[2]}",
        f".metadata.{IDS[1]}.tmp",
        f"replaced/{IDS[1]}.{IDS[2]}.{IDS[3]}.tmp",
        "__0_0.distcp",
        safetensors.shard_name(IDS[1], 1, 1),
    ]
    (tmp_path / ".metadata").write_bytes(b".")
    for name in (*ours, "train.log", f"run/data-{IDS[2]}/__0_0.distcp", "run/data/part-0.parquet"):
        old(tmp_path / name)
    held: dict[str, list[str]] = {}
    look = leftovers.found

    def looked(store: Store, entries: Sequence[Entry], *args: object) -> object:
        held[Path(store.url).name] = sorted(each.path for each in entries)
        return look(store, entries, *args)  # type: ignore[arg-type] # as they came

    monkeypatch.setattr(leftovers, "found", looked)
    cleaned(tmp_path, recursive=True)
    assert held == {tmp_path.name: sorted([*ours, ".metadata"]), "run": [f"data-{IDS[2]}/__0_0.distcp"]}


class Server:
    """Stands for S3 with uploads that have no end; counts the questions for their parts."""

    def __init__(self, keys: list[str]) -> None:
        self.keys = keys
        self.asked: list[str] = []

    def get_paginator(self, name: str) -> "Server":
        assert name == "list_multipart_uploads"
        return self

    def paginate(self, **of: str) -> list[dict[str, Any]]:
        begun = [{"Key": key, "UploadId": "1", "Initiated": OLD} for key in self.keys if key.startswith(of["Prefix"])]
        return [{"Uploads": begun}, {}]

    def list_parts(self, **of: Any) -> dict[str, Any]:
        self.asked.append(of["Key"])
        return {"Parts": [{"Size": 4, "LastModified": OLD}]}


def test_of_uploads_by_strangers_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """There may be thousands of them, and each question takes a request."""
    ours = f"run/step-1/data-{IDS[1]}/__0_0.distcp"
    server = Server([ours, "run/step-1/data-2024/part-0.parquet", "run/backup.tar", "run/step-1/model-x.bin"])
    uploads = Uploads("memory://", {})
    monkeypatch.setattr(uploads, "_client", server)
    monkeypatch.setattr(uploads, "_bucket", "bucket", raising=False)
    monkeypatch.setattr(uploads, "_prefix", "run/step-1/", raising=False)
    found = uploads.list(["data-", "model-"], leftovers.busy_name)
    assert [(each.path, each.bytes) for each in found] == [(ours.removeprefix("run/step-1/"), 4)]
    assert server.asked == [ours]
    monkeypatch.setattr(uploads, "_prefix", "run/")
    assert [*uploads.paths()] == [each.removeprefix("run/") for each in server.keys]
    assert server.asked == [ours]
