"""What cache, queue, watches, resync and reconcile know of a kind that the operator serves: a Kind, and nothing else.

A kind is pure code: functions of bodies, values and the time. The Checkpoint's is in `checkpoint`, and `registry` lists
all.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, NamedTuple, TypeVar

from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import Site
from dcp_operator.controllers.decision import Decision
from dcp_operator.kube.client.api import Resource

ParsedT = TypeVar("ParsedT")
"""An object as its kind parses it."""
ObservedT = TypeVar("ObservedT")
"""What the objects that it owns show together."""
ActionT = TypeVar("ActionT")
"""What a decision asks for."""
ValueT = TypeVar("ValueT")
"""What is kept of an owned object."""
Values = Mapping[str, Sequence[Any]]
"""What was read of the objects that an object owns, by their kind."""


class Deletion(NamedTuple):
    """The objects of one name that are to be deleted."""

    name: str
    why: str


@dataclass(frozen=True, kw_only=True)
class OwnedResource(Generic[ValueT]):
    """A watched resource whose objects belong to objects of a kind.

    Args:
        resource: Which.
        read: Returns what is kept of a body, by the time and by what was kept of that object before (or None). It is
            called once per change of the object; a body at which it raises an error is nobody's.
        unread: Returns what is kept of such a body.
        through: The resource whose objects control these, as Jobs control their Pods; None where the object of the kind
            controls them itself. What is read of a deleted object is kept for as long as its controller is there.
    """

    resource: Resource
    read: Callable[[Body, datetime, ValueT | None], ValueT]
    unread: Callable[[Body], ValueT]
    through: Resource | None = None


@dataclass(frozen=True, kw_only=True)
class Kind(Generic[ParsedT, ObservedT, ActionT]):
    """A kind that the operator serves.

    Args:
        resource: Where it is in the API.
        owned: What its objects own, and is watched.
        unwatched: What its objects own under the same names, and is only created and deleted.
        parse: Returns the object of a body that is as `begun` says: an attempt of it was made, so it was accepted once.
            Raises SpecError. What it accepts of a body that has not begun, it accepts likewise once it has.
        has_begun: Says so of a body by its status, and by what is observed where that is not None.
        is_finished: Says of a status whether the object has come to its end: it will hardly be looked at again.
        observe: Returns what the owned objects show together.
        decide: Returns what to do for an object, by what is observed, its status and the time.
        refuse: Returns what to do for a body whose spec can't be parsed, likewise.
        build: Returns the bodies that an action creates, the one by which the others are found last; none if it creates
            nothing.
        deletes: Returns what an action deletes; None if it deletes nothing: then it creates.
    """

    resource: Resource
    parse: Callable[[ReadBody, Site, bool], ParsedT]
    is_finished: Callable[[ReadBody], bool]
    observe: Callable[[Values], ObservedT]
    decide: Callable[[ParsedT, ObservedT, ReadBody, datetime], Decision[ActionT]]
    refuse: Callable[[SpecError, ReadBody, ObservedT, datetime], Decision[ActionT]]
    owned: tuple[OwnedResource[Any], ...] = ()
    unwatched: tuple[Resource, ...] = ()
    has_begun: Callable[[ReadBody, ObservedT | None], bool] = lambda *_: False
    build: Callable[[ParsedT, ActionT], tuple[Body, ...]] = lambda *_: ()
    deletes: Callable[[ActionT], Deletion | None] = lambda _: None
    resources: Mapping[str, Resource] = field(init=False)
    """What its objects own, watched or not, by the name that a body gives its kind."""

    def __post_init__(self) -> None:
        """Put together what its objects own."""
        resources = (*self.unwatched, *(each.resource for each in self.owned))
        object.__setattr__(self, "resources", {each.kind: each for each in resources})


AnyKind = Kind[Any, Any, Any]


class TwoReadersError(Exception):
    """Two kinds own one resource and read its objects differently; have both name the same OwnedResource."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(f"two kinds read {resource.plural} differently; have both name the same OwnedResource")


@dataclass(frozen=True)
class Kinds:
    """All kinds that are served, and what is watched for them.

    Raises:
        TwoReadersError: Two of them own one resource in different ways.
    """

    served: Mapping[str, AnyKind]
    owned: Mapping[str, OwnedResource[Any]]

    @classmethod
    def of(cls, kinds: Iterable[AnyKind]) -> "Kinds":
        """Return the kinds by their names."""
        served = {each.resource.kind: each for each in kinds}
        owned: dict[str, OwnedResource[Any]] = {}
        for each in (each for kind in served.values() for each in kind.owned):
            if owned.setdefault(each.resource.kind, each) is not each:
                raise TwoReadersError(each.resource)
        return cls(served, owned)

    @property
    def watched(self) -> tuple[Resource, ...]:
        """Every resource that is watched: those that are served, then those that these own."""
        return (
            *(each.resource for each in self.served.values()),
            *(each.resource for each in self.owned.values()),
        )
