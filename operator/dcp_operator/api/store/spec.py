"""The spec of a CheckpointStore: where checkpoints stand, how one gets there, and who may write."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from pydantic import Field

from dcp_contract.durations import parse_duration
from dcp_operator.api.checkpoint.spec import StorageAccess

_EPOCH: Final = datetime.fromtimestamp(0, UTC)
_INTERVAL: Final = r"^([0-9]{1,3}h)?([0-9]{1,5}m)?([0-9]{1,6}s)?$"
"""As CEL reads it, too: it knows no days."""
SHORTEST_INTERVAL: Final = timedelta(minutes=1)
LONGEST_INTERVAL: Final = timedelta(hours=168)


class AccessMode(StrEnum):
    """Whether Checkpoints may change what stands in a store."""

    READ_WRITE = "ReadWrite"
    READ_ONLY = "ReadOnly"


class StoreSpec(StorageAccess):
    """A place for checkpoints that the Checkpoints and series of a namespace name. Everything of it may change."""

    url: str = Field(
        min_length=1,
        max_length=900,
        description="Prefix of the URLs of what stands in the store, such as s3://bucket/team. A whole bucket is one "
        "as well.",
    )
    access_mode: AccessMode = Field(
        default=AccessMode.READ_WRITE,
        description="ReadOnly takes no operation that writes or removes anything, and its validation writes nothing: "
        "keys that may read are enough.",
    )
    default: bool = Field(
        default=False,
        description="Whether a storage that names no store means this one. Of several in a namespace it is the oldest.",
    )
    validation_interval: str = Field(
        default="1h",
        min_length=2,
        max_length=17,
        pattern=_INTERVAL,
        description="Time after which a store is validated again, such as 30m or 12h: 1m to 168h. A change of the spec "
        "has it validated at once.",
    )

    @property
    def interval(self) -> timedelta:
        """The time after which it is validated again."""
        return parse_duration(self.validation_interval)

    @property
    def writable(self) -> bool:
        """Whether Checkpoints may change what stands there."""
        return self.access_mode is AccessMode.READ_WRITE


@dataclass(frozen=True, kw_only=True)
class CheckpointStore:
    """A CheckpointStore object: who it is, and what it says."""

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    created: datetime = _EPOCH
    spec: StoreSpec


def default_of(stores: Iterable[CheckpointStore]) -> CheckpointStore | None:
    """Return the default one of the stores of a namespace: the oldest that says so, then the first by name."""
    return min((each for each in stores if each.spec.default), key=lambda each: (each.created, each.name), default=None)
