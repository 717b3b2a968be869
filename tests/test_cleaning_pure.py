"""What a clean-up spares and passes over; needs no torch, and no server."""

import os
from datetime import timedelta
from pathlib import Path

import pytest

from dcp_engine.cleanup import cleaned
from dcp_engine.commit import leftovers
from dcp_engine.format import safetensors
from dcp_engine.format.safetensors import ModelIndex

NONE = timedelta(0)
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
