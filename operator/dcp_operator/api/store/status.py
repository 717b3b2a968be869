"""The status of a CheckpointStore: whether Checkpoints can use it, and what its validation found."""

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import ConfigDict, Field, ValidationError

from dcp_contract.message import Wire
from dcp_operator.api.checkpoint.status import Condition, ShortText

AVAILABLE: Final = "Available"
"""The condition that says whether Checkpoints can use a store."""
DEFAULT: Final = "Default"
"""The condition that says whether a store that asks to be the default one is."""
BEST_EFFORT: Final = "BestEffort"
"""The guard of a store that ignores a condition."""
Word = Annotated[str, Field(max_length=63)]


class StoreReason(StrEnum):
    """Why a store stands where it stands: the reason of its conditions. Words of a failed validation come beside."""

    VALIDATED = "Validated"
    UNGUARDED = "Unguarded"
    """It can hold checkpoints, and ignores a condition of a request."""
    VALIDATING = "Validating"
    VALIDATION_REFUSED = "ValidationRefused"
    INVALID_SPEC = "InvalidSpec"
    NOT_ENABLED = "NotEnabled"
    OLDEST = "Oldest"
    OLDER_DEFAULT = "OlderDefault"


class Guards(Wire):
    """What the store itself refuses, as probed: `Atomic`, or `BestEffort` where two at one moment may both succeed."""

    model_config = ConfigDict(extra="ignore")

    create: Word = Field(
        default="", description="Atomic if the store refuses to create what is there already (If-None-Match)."
    )
    replace: Word = Field(
        default="", description="Atomic if the store refuses to replace what was changed meanwhile (If-Match)."
    )


class StoreStatus(Wire):
    """What is known of a store."""

    model_config = ConfigDict(extra="ignore")

    observed_generation: int = Field(default=-1, description="Generation of the spec that this status is about.")
    conditions: tuple[Condition, ...] = Field(
        default=(),
        max_length=16,
        description="Available says whether Checkpoints can use the store; Ready, Reconciling and Stalled say the same "
        "as kstatus reads it; Default stands where spec.default is true.",
    )
    guards: Guards | None = Field(default=None, description="What the store itself refuses, as the validation found.")
    versioning: Word = Field(
        default="",
        description="Enabled, Suspended or Disabled, where the store tells: whether what is removed stays as "
        "noncurrent versions.",
    )
    object_lock: Word = Field(
        default="",
        description="Enabled or Disabled, where the store tells: whether objects can't be removed for a time.",
    )
    last_validation_time: datetime | None = Field(default=None, description="When the last validation ended.")
    validated_generation: int = Field(
        default=-1, description="Generation of the spec that the last validation was about."
    )
    validation: ShortText = Field(
        default="",
        description="The Checkpoint that validates the store now, or whose validation failed: its pod's log says more.",
    )

    @classmethod
    def read(cls, body: Mapping[str, Any] | None) -> Self:
        """Return the status of a live object; a field that can't be read is dropped, never the whole."""
        fields = dict(body or {})
        while True:
            try:
                return cls.model_validate(fields)
            except ValidationError as error:
                for each in error.errors():
                    fields.pop(str(each["loc"][0]), None)

    def condition(self, kind: str) -> Condition | None:
        """Return the condition of a type; None where it does not stand."""
        return next((each for each in self.conditions if each.type == kind), None)

    @property
    def available(self) -> bool:
        """Whether Checkpoints can use the store."""
        found = self.condition(AVAILABLE)
        return found is not None and found.status == "True"

    def to_dict(self) -> dict[str, Any]:
        """Return the JSON-ready dict, without what holds its default."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)

    def with_changes(self, **changes: object) -> Self:
        """Return this status with some fields changed."""
        return self.model_copy(update=changes)
