"""What PyTorch's own tests of distributed checkpoints do, on stock DCP and on the engine: both see the same.

What the engine refuses on purpose stands at the end, and in docs/stock-dcp.md with its reason.
"""

import warnings
from pathlib import Path

import pytest
from torch.distributed.checkpoint.api import CheckpointException

import rank_pool
import stock_names
import stock_situations
from dcp_engine.errors import EngineError
from rank_group import values
from stock_situations import ENGINE, REFUSED, SITUATIONS, STOCK

pytestmark = pytest.mark.tier("faults")

DOCUMENT = Path(__file__).parents[1] / "docs/stock-dcp.md"


@pytest.mark.adversary
@pytest.mark.parametrize("name", SITUATIONS)
def test_stock_and_the_engine_see_the_same(pool: rank_pool.Pool, tmp_path: Path, name: str) -> None:
    seen = {
        system: values(
            pool.call(SITUATIONS[name].ranks, stock_situations.run, system, name, str(tmp_path / system), timeout=120)
        )
        for system in (STOCK, ENGINE)
    }
    assert seen[ENGINE] == seen[STOCK]


@pytest.mark.adversary
@pytest.mark.parametrize("name", REFUSED)
def test_what_the_engine_refuses_on_purpose_is_said_and_documented(tmp_path: Path, name: str) -> None:
    program, words = REFUSED[name]
    with stock_names.lead_to_the_engine(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # stock's own
        with pytest.raises((CheckpointException, EngineError), match=words):
            program(tmp_path / "c")
    assert name.partition("=")[0] in DOCUMENT.read_text()
