"""What a decision is, whatever kind of object it is about: what to do, what to write, and what to say of it."""

from dataclasses import dataclass
from datetime import datetime
from typing import Generic, Literal, TypeVar

from dcp_operator.api.json_types import Body

ActionT_co = TypeVar("ActionT_co", covariant=True)
"""Of the kind's own type: what is to be created or deleted."""


@dataclass(frozen=True, kw_only=True)
class Event:
    """One Kubernetes event about an object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class Decision(Generic[ActionT_co]):
    """What to do now: carry out the actions, write the status if it differs, then post the events."""

    actions: tuple[ActionT_co, ...]
    status: Body
    """The whole status."""
    events: tuple[Event, ...] = ()
    wake_at: datetime | None = None
    """When to decide again even if nothing changes."""
