"""Across torch releases: whichever runs now, with the engine and with stock DCP, reads what each of them wrote.

`make test-torch` runs this under the earlier releases, too; `torch_programs` wrote the files.
"""

from pathlib import Path

import pytest

import dcp_engine
import torch_programs as programs
from rank_group import values
from rank_pool import Pool, joined

pytestmark = pytest.mark.tier("ranks")

RELEASES = ["2.13", "2.14", "2.15"]


def _saved(system: str, release: str) -> str:
    return str(programs.GOLDEN / f"torch-{release}" / system)


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("system", ["engine", "stock"])
def test_we_load_what_any_torch_saved(pool: Pool, system: str, release: str) -> None:
    assert values(pool.call(3, joined, programs.load, _saved(system, release))) == [[], [], []]


# Since 2.15 stock writers put strides into `.metadata`, on which earlier stock readers choke. We leave them out.
@pytest.mark.parametrize(
    ("system", "release"),
    [
        *(("engine", release) for release in RELEASES),
        *(("stock", release) for release in RELEASES if release < "2.15" or programs.release() >= "2.15"),
    ],
)
def test_stock_dcp_loads_what_any_torch_saved(pool: Pool, system: str, release: str) -> None:
    assert values(pool.call(3, joined, programs.stock_load, _saved(system, release))) == [[], [], []]


@pytest.mark.parametrize("release", RELEASES)
def test_we_verify_what_any_torch_saved(release: str) -> None:
    assert dcp_engine.verify(_saved("engine", release)).verified == "every byte, by its crc32c"
    assert dcp_engine.verify(_saved("stock", release)).verified.startswith("file sizes and zip CRC-32")
    assert dcp_engine.inspect(_saved("engine", release)).torch_version.startswith(f"{release}.")


def test_the_running_torch_is_among_them(pool: Pool, tmp_path: Path) -> None:
    """And still writes what it wrote: the same files, of the same sizes but for the folder's name in `.metadata`."""
    assert programs.release() in RELEASES
    values(pool.call(2, joined, programs.save_both, str(tmp_path)))
    for system in ("engine", "stock"):
        assert _shape(tmp_path / system) == _shape(Path(_saved(system, programs.release())))


def _shape(folder: Path) -> dict[str, int]:
    data = [path for path in folder.rglob("*") if path.suffix in {".distcp", ".crc32c"}]
    return {path.name: path.stat().st_size for path in data}
