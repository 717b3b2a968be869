"""What any strategy saves on any number of ranks, every other loads: every tensor the same to the last bit.

The reference is trained without sharding and without a checkpoint (see `workloads`): parameters, buffers, exp_avg,
exp_avg_sq, step and param_groups are compared with it in every rank. The full matrix is behind the mark `matrix`.
"""

from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from dcp_contract.operations import Operation
from dcp_contract.sections import Strategy
from rank_pool import Pool
from tasks import CELLS, Cell, succeed, task

pytestmark = pytest.mark.tier("ranks")


class Kind(NamedTuple):
    """What is saved, and by which workload it is loaded."""

    saves: str
    loads: str
    steps: int
    on_meta: bool

    def __str__(self) -> str:
        return f"{self.loads}-{self.steps}-steps-{'meta' if self.on_meta else 'memory'}"


SIMPLE = [Kind("Seed", "Seed", steps, on_meta=True) for steps in (0, 1)]
AWKWARD = [Kind("AwkwardSeed", "MetaAwkward", steps, on_meta=True) for steps in (0, 1)]
IN_MEMORY = [
    Kind("Seed", "InMemory", 0, on_meta=False),
    Kind("AwkwardSeed", "AwkwardSeed", 1, on_meta=False),
]
KINDS = [*AWKWARD, *SIMPLE, *IN_MEMORY]

RING = [(saver, CELLS[(place + 6) % len(CELLS)], KINDS[place % len(KINDS)]) for place, saver in enumerate(CELLS)]
"""Every cell saves once and loads once."""
CHOSEN = [
    (Cell(Strategy.FSDP1, 4), Cell(Strategy.FSDP2, 3), AWKWARD[1]),
    (Cell(Strategy.FSDP2, 3), Cell(Strategy.FSDP1, 4), AWKWARD[1]),
    (Cell(Strategy.HSDP, 4), Cell(Strategy.FSDP1, 3), AWKWARD[0]),
    (Cell(Strategy.FSDP1, 3), Cell(Strategy.HSDP, 4), AWKWARD[1]),
    (Cell(Strategy.DDP, 3), Cell(Strategy.FSDP2, 2), SIMPLE[1]),
    (Cell(Strategy.NONE, 1), Cell(Strategy.FSDP1, 2), AWKWARD[0]),
    (Cell(Strategy.FSDP2, 4), Cell(Strategy.NONE, 1), AWKWARD[0]),
    (Cell(Strategy.NONE, 3), Cell(Strategy.HSDP, 4), SIMPLE[1]),
]


@pytest.fixture(scope="module")
def saved() -> dict[tuple[Cell, str, int], Path]:
    """Return where what was saved already lies."""
    return {}


def check(
    pool: Pool, saved: dict[tuple[Cell, str, int], Path], folder: Path, saver: Cell, loader: Cell, kind: Kind
) -> None:
    exact = bool(kind.steps)
    key = (saver, kind.saves, kind.steps)
    if key not in saved:
        made = task(Operation.SAVE, folder / "checkpoint", saver, kind.saves, steps=kind.steps, exact=exact)
        info = succeed(pool.work(made)).checkpoint
        assert info is not None
        assert (info.world_size, info.step) == (saver.ranks, kind.steps)
        saved[key] = folder / "checkpoint"
    expect = {"steps": kind.steps, "ranks": saver.trainers}
    args: dict[str, Any] = {"exact": exact, "expect": expect, "meta": kind.on_meta, "rate": 0.7}
    succeed(pool.work(task(Operation.LOAD, saved[key], loader, kind.loads, **args)))


@pytest.mark.parametrize(("saver", "loader", "kind"), [*RING, *CHOSEN], ids=str)
def test_a_sample(
    pool: Pool, saved: dict[tuple[Cell, str, int], Path], tmp_path: Path, saver: Cell, loader: Cell, kind: Kind
) -> None:
    check(pool, saved, tmp_path, saver, loader, kind)


@pytest.mark.tier("matrix")
@pytest.mark.parametrize(("kind", "saver", "loader"), list(product(KINDS, CELLS, CELLS)), ids=str)
def test_every_pair(
    pool: Pool, saved: dict[tuple[Cell, str, int], Path], tmp_path: Path, saver: Cell, loader: Cell, kind: Kind
) -> None:
    check(pool, saved, tmp_path, saver, loader, kind)
