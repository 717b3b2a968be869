"""The registry of operations: what a Checkpoint can do, once, with the checkpoint at its URL.

An operation is a member of `Operation` and two modules of its name: `dcp_operator.api.checkpoint.operations.save` (what
its spec may say, when an attempt of it has ended) and `dcp_worker.operations.save` (what is asked of the store before
ranks start, what a rank does). Nothing else in the project compares operations: it asks for their traits.

An operation that has fields of its own has a member in `OperationMembers`, by the name of its modules.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from pydantic import Field

from dcp_contract.message import Wire
from dcp_contract.reasons import Reason
from dcp_contract.sections import LoadSelection, Source


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
    module: str
    """Name of the modules that are its two halves, and of its member in a spec, if it has one."""

    SAVE = "Save", OperationTraits(result=Reason.SAVED, needs_workload=True, needs_ranks=True, writes=True)
    LOAD = "Load", OperationTraits(result=Reason.LOADED, needs_workload=True, needs_ranks=True)
    VERIFY = "Verify", OperationTraits(result=Reason.VERIFIED)

    def __new__(cls, word: str, traits: OperationTraits) -> Self:
        """Make a member whose value is its word alone."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.traits, member.module = traits, word.lower()
        return member


class IfExists(StrEnum):
    """What a Save does where a committed checkpoint stands."""

    FAIL = "Fail"
    REPLACE = "Replace"


class SaveFields(Wire):
    """What a Save does before it commits, and where a checkpoint stands already."""

    if_exists: IfExists = Field(
        default=IfExists.FAIL,
        description="What a Save does if a committed checkpoint stands at the URL: Fail ends the Save as a Conflict; "
        "Replace replaces the checkpoint atomically.",
    )
    steps: int = Field(
        default=0, ge=0, le=1_000_000, description="Optimisation steps to run before the checkpoint is saved."
    )
    from_: Source | None = Field(default=None, alias="from", description="Load this checkpoint before the steps.")

    @property
    def overwrites(self) -> bool:
        """Whether a committed checkpoint is replaced."""
        return self.if_exists is IfExists.REPLACE


class VerifyFields(Wire):
    """What a Verify checks: every byte, by its digests. It has no choice to make yet."""


class OperationMembers(Wire):
    """The union of operations: `operation` says which one it is, and its own fields stand in the member of its name."""

    operation: Operation = Field(
        description="Save writes a checkpoint, Load reads it into a model, Verify checks its bytes."
    )
    save: SaveFields | None = Field(
        default=None,
        description="What a Save does before it saves, and if a checkpoint stands there already. For a Save alone.",
    )
    load: LoadSelection | None = Field(
        default=None, description="Which part of the checkpoint a Load reads. For a Load alone."
    )
    verify: VerifyFields | None = Field(
        default=None, description="A Verify checks every byte; no field yet. For a Verify alone."
    )

    @property
    def members(self) -> dict[str, Wire | None]:
        """The member of each operation that has one, by its name."""
        own = OperationMembers.model_fields.keys() & {each.module for each in Operation}
        return {name: getattr(self, name) for name in sorted(own)}

    @property
    def of_save(self) -> SaveFields:
        """A Save's own fields; with their defaults where the member is left out."""
        return self.save or SaveFields()

    @property
    def of_load(self) -> LoadSelection:
        """A Load's own fields; with their defaults where the member is left out."""
        return self.load or LoadSelection()
