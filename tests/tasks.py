"""Tasks over the workloads of `workloads`, and how ranks that ran one of them ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dcp_contract.checkpoint_info import Provenance
from dcp_contract.operations import Operation
from dcp_contract.report import RankFailure
from dcp_contract.save_fields import SaveFields
from dcp_contract.sections import LoadSelection, Parallelism, Storage, Strategy, Workers, Workload
from dcp_contract.task import Task
from dcp_worker.rank.result import Outcome


class Cell(NamedTuple):
    """A way to hold a model: a strategy on a number of ranks."""

    strategy: Strategy
    ranks: int

    def __str__(self) -> str:
        return f"{self.strategy}@{self.ranks}"

    @property
    def trainers(self) -> int:
        """Ranks whose gradients count: replicas that nothing holds together are those of rank 0 when they are saved."""
        return 1 if self.strategy is Strategy.NONE else self.ranks


CELLS = (
    *(
        Cell(strategy, ranks)
        for strategy in (Strategy.FSDP2, Strategy.FSDP1, Strategy.DDP, Strategy.NONE)
        for ranks in (1, 2, 3, 4)
    ),
    Cell(Strategy.HSDP, 4),
)
"""Every cell that there is with up to four ranks; two replicas on fewer than four are no hybrid."""


def task(
    operation: Operation, url: Path | str, cell: Cell, workload: str = "Seed", *, steps: int = 0, **fields: Any
) -> Task:
    """Return a Task; `from_`, `allow` and `load` as in a spec; others, and `args`, are the workload's arguments."""
    entrypoint = workload if ":" in workload else f"workloads:{workload}"
    spec = {"entrypoint": entrypoint, "allow": fields.pop("allow", [])}
    saves = {"steps": steps, "from": fields.pop("from_", None)}
    loads = fields.pop("load", {})
    fields |= fields.pop("args", {})
    return Task(
        operation=operation,
        origin=Provenance(name="matrix", uid="uid-1"),
        save=SaveFields.model_validate(saves) if operation is Operation.SAVE else None,
        load=LoadSelection.model_validate(loads) if operation is Operation.LOAD else None,
        storage=Storage(url=f"file://{url}"),
        workload=Workload.model_validate({**spec, "args": fields}),
        parallelism=Parallelism(strategy=cell.strategy, replicate=2 if cell.strategy is Strategy.HSDP else 1),
        workers=Workers.model_validate({"numProcPerNode": cell.ranks, "device": "cpu"}),
        active_seconds=60,
    )


def failures(outcomes: Sequence[Outcome]) -> list[RankFailure]:
    """Return why ranks failed, the first cause first; what a peer only echoes too."""
    return sorted((failure for outcome in outcomes for failure in outcome.failures), key=lambda failure: failure.time)


def succeed(outcomes: Sequence[Outcome]) -> Outcome:
    """Return rank 0's Outcome; fail with the first cause if there is one."""
    for failure in failures(outcomes):
        raise AssertionError(f"rank {failure.rank}, {failure.stage}: {failure.message}\n{failure.traceback}")
    return outcomes[0]
