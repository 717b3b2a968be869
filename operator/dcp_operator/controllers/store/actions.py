"""What a decision about a store asks for, as data. Each may be carried out twice."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StartValidation:
    """Create the Checkpoint that validates the store."""

    name: str


@dataclass(frozen=True, kw_only=True)
class DropValidation:
    """Delete a Checkpoint that has validated the store."""

    name: str
    why: str


StoreAction = StartValidation | DropValidation
