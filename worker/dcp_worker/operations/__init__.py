"""The data plane's half of each operation, in a module of the operation's name.

The launcher imports these modules too: none of them loads torch when it is imported.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib import import_module
from typing import TYPE_CHECKING, Final, Protocol

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.operations import Operation
from dcp_contract.task import Task

if TYPE_CHECKING:
    from dcp_worker.operations.built_workload import BuiltWorkload

SAVING: Final = "saving"
"""The one stage in which a rank's end leaves open whether there is a commit."""


class RankContext(Protocol):
    """What an operation may use of the rank that carries it out."""

    @property
    def task(self) -> Task:
        """What the attempt was told."""

    @property
    def on_progress(self) -> Callable[[int, int], None]:
        """What the engine calls with this rank's bytes so far and in all."""

    def stage(self, name: str, *, transfers: bool = False) -> AbstractContextManager[None]:
        """Name what the rank does now; the last stage that transfers is the one whose seconds are reported."""

    def built(self, *, savable: bool = False, overwritten: bool = False) -> "BuiltWorkload":
        """Join the other ranks and build the workload; collective.

        Args:
            savable: Refuse a model that can't be saved, before it is sharded.
            overwritten: Every value of the model is about to be loaded, so that it may be built without memory.
        """

    def ignore_stop(self) -> None:
        """Let a SIGTERM change nothing any more."""


class WorkerHalf(Protocol):
    """What a module of an operation defines."""

    def preflight(self, task: Task) -> CheckpointInfo | None:
        """Ask the store, before any rank starts, whether the operation can work; node 0's launcher calls it.

        Returns:
            What settles the Task, so that no rank starts: this very run's earlier commit. Else None.

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
