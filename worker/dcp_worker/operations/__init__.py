"""The data plane's half of each operation, in a module of the operation's name.

The launcher imports these modules too: none of them loads torch when it is imported.
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Final, Protocol

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.task import Task
from dcp_worker.rank_context import RankContext

SAVING: Final = "saving"
"""The one stage in which a rank's end leaves open whether there is a commit."""


@dataclass(frozen=True)
class Settled:
    """What the store says settles a Task: no rank starts."""

    result: Reason
    checkpoint: CheckpointInfo


class WorkerHalf(Protocol):
    """What a module of an operation defines."""

    def preflight(self, task: Task) -> CheckpointInfo | Settled | None:
        """Ask the store, before any rank starts, whether the operation can work; node 0's launcher calls it.

        It calls it once more where the ranks met another checkpoint that was committed since.

        Returns:
            What settles the Task, so that no rank starts: this very run's earlier commit, say; with its result, where
            that is not the operation's own. Else None.

        Raises:
            EngineError: The operation can't work.
        """

    def run(self, rank: RankContext) -> CheckpointInfo:
        """Carry the operation out; every rank calls it.

        Raises:
            EngineError: Or anything else; the rank reports it.
        """


def half_of(operation: Operation) -> WorkerHalf:
    """Return the module that carries the operation out."""
    half: WorkerHalf = import_module(f"{__name__}.{operation.module}")
    return half
