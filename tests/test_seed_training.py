"""The test that PyTorch has of DCP over fsspec, on our engine: a trained FSDP1 model and its Adam, and overwriting."""

from pathlib import Path
from typing import Any

import pytest

import rank_pool
import seed_programs as programs
from rank_group import values
from rank_pool import Pool

pytestmark = pytest.mark.tier("ranks")

Place = tuple[str, dict[str, Any]]


@pytest.fixture(params=["local", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "local":
        return str(tmp_path / "checkpoint"), {}
    server = request.getfixturevalue("s3")
    return server.url(f"{tmp_path.name}/checkpoint"), server.options


@pytest.mark.parametrize("how", ["engine", "dcp"])
def test_model_and_optimizer_come_back_through_fsdp1(pool: Pool, place: Place, how: str) -> None:
    for seen in values(pool.call(2, rank_pool.joined, programs.save_and_load, *place, how)):
        assert seen["before"] == [False] * 8
        assert seen["after"] == [True] * 8
        for name in ("exp_avg", "exp_avg_sq", "step"):
            assert seen[name] == [True], f"{name} of the one flat parameter that FSDP1 makes of the eight"


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("how", ["engine", "dcp"])
def test_overwriting_is_refused_then_done_then_refused(pool: Pool, place: Place, how: str, ranks: int) -> None:
    for said in values(pool.call(ranks, rank_pool.joined, programs.overwrite, *place, how)):
        assert len(said) == 2
        assert all("Checkpoint already exists" in text for text in said), said
