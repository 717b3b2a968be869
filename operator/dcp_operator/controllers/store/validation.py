"""The Checkpoint that validates a store, and all that is known of a store beside its object: small frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Self

from dcp_contract.checkpoint_info import StoreFacts
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import GENERATION_ANNOTATION
from dcp_operator.controllers.checkpoint.reporting import message_of
from dcp_operator.controllers.checkpoint.runs import run_id_of

VALIDATES: Final = next(each for each in Operation if each.traits.result is Reason.VALIDATED)
"""The operation of a Checkpoint that validates a store."""
PROBED: Final = ".dcp-probe"
"""Below a store's prefix, where it is tried out: no checkpoint of anybody's stands there."""
_OF_THE_STORE: Final = frozenset(
    {Reason.STORAGE_DENIED, Reason.STORAGE_UNAVAILABLE, Reason.STORAGE_FULL, Reason.INVALID_SPEC}
)
"""Reasons that say something of the store. Others are of the pod, which could not look."""


@dataclass(frozen=True, kw_only=True)
class Validation:
    """A Validate that a store controls."""

    name: str
    uid: str
    generation: int
    """Of the store's spec that it is about."""
    phase: Phase = Phase.PENDING
    reason: Reason | None = None
    message: str = ""
    ended: datetime | None = None
    """When its result was known; None while it is not finished."""
    facts: StoreFacts | None = None
    deleting: bool = False
    asked: Mapping[str, Any] = field(default_factory=dict)
    """What it does, as `asked_of` says: anybody may have made it."""

    @classmethod
    def of(cls, body: ReadBody) -> Self:
        """Return the validation that a Checkpoint's body shows."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        status = Status.read(body.get("status"))
        failed = status.failure.reason if status.failure is not None else None
        over = status.phase.terminal and status.run_id == run_id_of(spec)
        generation = str((metadata.get("annotations") or {}).get(GENERATION_ANNOTATION, ""))
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            generation=int(generation) if generation.isdecimal() else 0,
            phase=status.phase,
            reason=status.reason or failed,
            message=status.failure.message if over and status.failure is not None else message_of(status.conditions),
            ended=status.completion_time if over else None,
            facts=status.checkpoint.store if status.checkpoint is not None else None,
            deleting=bool(metadata.get("deletionTimestamp")),
            asked=asked_of(spec),
        )

    @property
    def succeeded(self) -> bool:
        """Whether the store can hold checkpoints."""
        return self.ended is not None and self.phase is Phase.SUCCEEDED

    @property
    def conclusive(self) -> bool:
        """Whether it says something of the store."""
        return self.succeeded or self.reason in _OF_THE_STORE


def asked_of(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what tells two Validates apart: what is tried out, how, and by which pod."""
    workers = spec.get("workers") or {}
    return {
        "storage": spec.get("storage"),
        "readOnly": bool((spec.get(VALIDATES.module) or {}).get("readOnly")),
        "pod": [workers.get(each) or None for each in ("image", "podTemplate")],
    }


@dataclass(frozen=True, kw_only=True)
class StoreObserved:
    """What a decision about a store looks at beside its object."""

    validations: tuple[Validation, ...] = field(default=())
    """All that exist, in the order of their end, those that have not ended last."""
    others: tuple[Validation, ...] = field(default=())
    """What the store controls and would not have made so: they tell nothing of it."""
    default: str = ""
    """Name of the namespace's default store; empty where none is."""

    @property
    def under_way(self) -> Validation | None:
        """The validation that has not ended; there is one at most."""
        return next((each for each in self.validations if each.ended is None), None)

    @property
    def latest(self) -> Validation | None:
        """The validation that ended last."""
        return next((each for each in reversed(self.validations) if each.ended is not None), None)
