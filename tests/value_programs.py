"""What the ranks of the tests of values run."""

from typing import Any

import torch

from dcp_worker import engine
from dcp_worker.engine import errors


def load_halves(rank: int, url: str) -> tuple[int, int, str]:
    """Load every second layer on each of two ranks; then leave out the last."""

    def mine(count: int) -> dict[str, Any]:
        return {f"layers.{number}.weight": torch.zeros(3) for number in range(rank, count, 2)}

    entries = engine.load(mine(4), url, strict="both").entries
    assert entries is not None
    try:
        engine.load(mine(3), url, strict="both")
    except errors.StateMismatch as error:
        return entries.loaded, entries.left_out, error.message
    return entries.loaded, entries.left_out, ""
