"""What docs/format.md says is so: a reader that was written from it reads and checks what the engine saved."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import format_reader

TESTS = Path(__file__).resolve().parent
PAGE = (TESTS.parent / "docs" / "format.md").read_text(encoding="utf-8")
GOLDEN = sorted((TESTS / "golden").glob("torch-*/engine"))


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return the folder of a checkpoint that a test may damage."""
    return Path(shutil.copytree(GOLDEN[-1], tmp_path / "checkpoint"))


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.parent.name)
def test_a_reader_written_from_the_page_checks_what_any_torch_saved(folder: Path) -> None:
    found = format_reader.opened(folder)
    format_reader.check(found)
    assert format_reader.values(found, "rows") == {
        (0, 0): tuple(map(float, range(12))),
        (4, 0): tuple(map(float, range(12, 21))),
    }
    assert format_reader.values(found, "ids") == {(0,): tuple(number << 40 for number in range(5))}
    assert format_reader.values(found, "flags") == {(0,): (True, False, True)}
    assert format_reader.values(found, "step") == {(): (7.0,)}
    assert format_reader.values(found, "wave") == {(0,): (1.0, 2.0, 0.0, 3.0)}
    assert format_reader.values(found, "empty") == {(0, 0): ()}


def test_the_reader_imports_neither_torch_nor_the_engine() -> None:
    run = subprocess.run(
        [sys.executable, TESTS / "format_reader.py", GOLDEN[-1]], capture_output=True, text=True, check=True
    )
    assert "rows: float32 [7, 3] in 2 chunks" in run.stdout


@pytest.mark.tier("ranks")
def test_what_the_engine_saves_now_is_as_the_page_says(tmp_path: Path) -> None:
    import torch

    import dcp_engine
    from dcp_contract.checkpoint_info import Provenance

    weight = torch.arange(6.0).reshape(2, 3)
    state = {"model": {"weight": weight, "large": torch.arange(40_000)}, "epoch": 3}
    origin = Provenance(namespace="team", name="save", uid="uid-1", run_id="two", cluster_id="c-1", spec_digest="d-1")
    dcp_engine.save(state, tmp_path / "checkpoint", step=7, origin=origin, no_dist=True)
    found = format_reader.opened(tmp_path / "checkpoint")
    format_reader.check(found)
    assert format_reader.values(found, "model.weight") == {(0, 0): tuple(weight.flatten().tolist())}
    assert (found.manifest["step"], found.manifest["worldSize"], found.manifest["conflictGuard"]) == (7, 1, "Atomic")
    assert found.manifest["tensors"]["model.weight"]["path"] == ["model", "weight"]
    assert named_fields("manifest.json") == {
        *found.manifest,
        *found.manifest["files"][0],
        *found.manifest["tensors"]["model.weight"],
        *("offsets", "sizes", "file", "offset", "length", "payload"),
    }
    assert named_fields("The trailer of `.metadata`") == set(found.trailer)
    assert set(found.manifest["origin"]) == {"namespace", "name", "uid", "runId"}
    assert {path.name for path in found.data.iterdir()} == {"manifest.json", "blocks.crc32c", "__0_0.distcp"}


@pytest.mark.tier("ranks")
def test_a_replaced_checkpoint_has_the_note_of_the_page(tmp_path: Path) -> None:
    from datetime import timedelta

    import torch

    import dcp_engine

    folder = tmp_path / "checkpoint"
    for number in range(2):
        dcp_engine.save(
            {"a": torch.tensor(number)}, folder, overwrite=True, keep_replaced=timedelta(hours=1), no_dist=True
        )
    (note,) = (folder / "replaced").iterdir()
    old, _, new = note.name.partition(".")
    assert format_reader.opened(folder).trailer["saveId"] == new
    assert (folder / f"data-{old}" / "manifest.json").exists()
    fields = json.loads(note.read_text())
    assert named_fields("Replaced checkpoints") == set(fields)
    assert (fields["keepSeconds"], fields["files"]) == (3600, [])


def damaged_block(folder: Path) -> None:
    path = next(folder.glob("data-*/__1_0.distcp"))
    content = bytearray(path.read_bytes())
    content[7000] ^= 1
    path.write_bytes(content)


def cut_file(folder: Path) -> None:
    path = next(folder.glob("data-*/__0_0.distcp"))
    path.write_bytes(path.read_bytes()[:-1])


def changed_manifest(folder: Path) -> None:
    path = next(folder.glob("data-*/manifest.json"))
    path.write_text(path.read_text().replace('"step":7', '"step":8'))


def changed_pickle(folder: Path) -> None:
    path = folder / ".metadata"
    path.write_bytes(path.read_bytes().replace(b"float32", b"float64").replace(b"rows", b"cows"))


def cut_metadata(folder: Path) -> None:
    path = folder / ".metadata"
    path.write_bytes(path.read_bytes()[:-30])


def stock_metadata(folder: Path) -> None:
    path = folder / ".metadata"
    content = path.read_bytes()
    path.write_bytes(content[: content.rfind(format_reader.MARK)])


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (damaged_block, "differs in the block at 0"),
        (cut_file, "has 2037 bytes"),
        (changed_manifest, "does not have the sha256"),
        (changed_pickle, "the pickle does not have the sha256"),
        (cut_metadata, "was cut off or changed"),
        (stock_metadata, "stock DCP saved this"),
    ],
)
def test_a_reader_written_from_the_page_finds_damage(copy: Path, damage: Callable[[Path], None], what: str) -> None:
    damage(copy)
    with pytest.raises(format_reader.Damaged, match=what):
        format_reader.check(format_reader.opened(copy))


def named_fields(heading: str) -> set[str]:
    """Return the first words of the rows of every table below a heading of the page."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
