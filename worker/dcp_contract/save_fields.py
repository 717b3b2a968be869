"""What the spec of a Save says beside its workload."""

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from dcp_contract.message import Wire
from dcp_contract.sections import Source

ObjectUid = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$")]
ClusterId = ObjectUid


class IfSaved(StrEnum):
    """What a Save does where a committed checkpoint stands."""

    FAIL = "Fail"
    REPLACE = "Replace"
    ADOPT = "Adopt"


class SaveFields(Wire):
    """What a Save does before it commits, and where a checkpoint stands already."""

    if_exists: IfSaved = Field(
        default=IfSaved.FAIL,
        description="What a Save does if a committed checkpoint stands at the URL: Fail ends the Save as a Conflict; "
        "Replace replaces the checkpoint atomically; Adopt takes it over (AlreadySaved) if a Checkpoint of the same "
        "namespace, name, spec and cluster saved it, and else ends as a Conflict. What was adopted is never removed "
        "with its Checkpoint.",
    )
    adopt_from: ClusterId | None = Field(
        default=None,
        description="With ifExists Adopt: id of another cluster whose checkpoints are adopted too, such as that of "
        "this cluster before it was rebuilt: uid of its namespace kube-system.",
    )
    steps: int = Field(
        default=0, ge=0, le=1_000_000, description="Optimisation steps to run before the checkpoint is saved."
    )
    from_: Source | None = Field(default=None, alias="from", description="Load this checkpoint before the steps.")

    @property
    def overwrites(self) -> bool:
        """Whether a committed checkpoint is replaced."""
        return self.if_exists is IfSaved.REPLACE

    @property
    def adopts(self) -> bool:
        """Whether a checkpoint that this Save's own kind has saved before is taken over."""
        return self.if_exists is IfSaved.ADOPT
