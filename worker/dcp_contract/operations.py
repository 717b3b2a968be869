"""The registry of operations: what a Checkpoint can do, once, with the checkpoint at its URL.

An operation is a member of `Operation` and two modules of its name: `dcp_operator.api.checkpoint.operations.save` (what
its spec may say, when an attempt of it has ended) and `dcp_worker.operations.save` (what is asked of the store before
ranks start, what a rank does). Nothing else in the project compares operations: it asks for their traits.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from dcp_contract.reasons import Reason


@dataclass(frozen=True, kw_only=True)
class OperationTraits:
    """What the rest of the project has to know of an operation."""

    result: Reason
    """The reason of a Checkpoint that has succeeded, and what node 0 reports then."""
    needs_workload: bool = False
    """It builds a model, so that its spec has a workload, and its ranks need what trains one."""
    needs_ranks: bool = False
    """It may run as many ranks, on GPUs. One without is one process on a CPU."""
    writes: bool = False
    """It commits a checkpoint at its URL. An attempt of it that is lost may have committed all the same."""


class Operation(StrEnum):
    """What a Checkpoint does, once, with the checkpoint at its URL."""

    traits: OperationTraits

    SAVE = "Save", OperationTraits(result=Reason.SAVED, needs_workload=True, needs_ranks=True, writes=True)
    LOAD = "Load", OperationTraits(result=Reason.LOADED, needs_workload=True, needs_ranks=True)
    VERIFY = "Verify", OperationTraits(result=Reason.VERIFIED)

    def __new__(cls, word: str, traits: OperationTraits) -> Self:
        """Make a member whose value is its word alone."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.traits = traits
        return member

    @property
    def module(self) -> str:
        """Name of the modules that are its two halves."""
        return self.name.lower()
