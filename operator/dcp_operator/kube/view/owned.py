"""The objects that served objects own, such as Jobs and their Pods: each read once when its body comes.

A label says whose an object may be, `ownership` whether it is: anybody may write labels. What only claims to belong to
somebody is kept apart by that alone, since a resync would take what is left out for a watch that has fallen behind.
"""

import logging
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import UID_LABEL
from dcp_operator.kube.client.api import ObjectKey, Resource
from dcp_operator.kube.client.ownership import Claimed, Owner, belongs
from dcp_operator.kube.kinds.kind import Kinds, OwnedResource, Values

logger = logging.getLogger(__name__)

OwnerId = tuple[str, str]
"""Namespace and uid of the object that an object's label names."""
_NOBODYS: Final = Claimed("", "", "", "", "", "", 0)


class _Held(NamedTuple):
    uid: str
    version: int
    claimed: Claimed
    value: Any
    """As its OwnedResource reads it."""


_Shelves = dict[str, dict[str, _Held]]
"""By kind, then by name."""


@dataclass
class OwnedObjects:
    """The owned objects that are here.

    Args:
        kinds: What owns what.
    """

    kinds: Kinds
    _shelves: dict[OwnerId, _Shelves] = field(default_factory=dict)
    _places: dict[str, dict[tuple[str, str], OwnerId]] = field(default_factory=lambda: defaultdict(dict))
    """By kind, then by namespace and name: which shelf an object that exists is on."""
    _strangers: set[str] = field(default_factory=set)

    def put(self, kind: str, body: Body, now: datetime) -> OwnerId | None:
        """Keep what is read of a body; return whose it may be, None if it is no news or nobody's.

        Args:
            kind: The object's.
            body: The object.
            now: The time, by which a reader bounds the times that it reads.
        """
        metadata = body["metadata"]
        label = (metadata.get("labels") or {}).get(UID_LABEL)
        if label is None:
            return None
        at, place = (metadata["namespace"], metadata["name"]), (metadata["namespace"], label)
        earlier = self._places[kind].get(at)
        if earlier is not None and earlier != place:
            self._shelves[earlier][kind].pop(metadata["name"], None)
            self._tidy(earlier)
        elif earlier is not None:
            # One tuple for all objects of an owner: there may be thousands.
            place = earlier
        shelf = self._shelves.setdefault(place, {}).setdefault(kind, {})
        before = shelf.get(metadata["name"])
        if before is not None and int(metadata["resourceVersion"]) <= before.version:
            return None
        shelf[metadata["name"]] = _read(self.kinds.owned[kind], body, now, before, shelf)
        self._places[kind][at] = place
        return place

    def remove(self, kind: str, namespace: str, name: str, uid: str) -> OwnerId | None:
        """Forget an object that is gone; return whose it may have been, None if it was not here.

        What was read of an object with a controller between it and its owner stays for as long as that is here: the
        last state of a Pod holds its Report, or shows that somebody deleted the Pod while it ran.
        """
        owned, place = self.kinds.owned[kind], self._places[kind].get((namespace, name))
        if place is None or (held := self._shelves[place][kind].get(name)) is None or held.uid != uid:
            return None
        del self._places[kind][namespace, name]
        self._strangers.discard(uid)
        shelves = self._shelves[place]
        if owned.through is None or held.claimed.job not in shelves.get(owned.through.kind, {}):
            del shelves[kind][name]
        for each in self.kinds.owned.values():
            if each.through == owned.resource:
                self._drop_orphans(each, shelves, namespace)
        self._tidy(place)
        return place

    def of(self, key: ObjectKey, uid: str) -> Values:
        """Return what was read of the objects that belong to an object, which itself may be gone, by their kind.

        The objects of a controller that is gone are among them: Pods run on until the kubelet has stopped them.
        """
        kind, shelves = self.kinds.served[key.kind], self._shelves.get((key.namespace, uid), {})
        owner = Owner(kind.resource, key.name, uid)
        found: dict[str, list[Any]] = {}
        uids: dict[str, dict[str, str]] = {}
        for each in kind.owned:
            shelf = shelves.get(each.resource.kind, {})
            if each.through is None:
                ours = {name: held for name, held in shelf.items() if self._belongs(each, name, held, owner, key)}
                uids[each.resource.kind] = {name: held.uid for name, held in ours.items()}
                found[each.resource.kind] = [held.value for held in ours.values()]
            else:
                found[each.resource.kind] = _through(each, shelf, owner, uids.get(each.through.kind, {}))
        return found

    def uid_of(self, key: ObjectKey, uid: str, resource: Resource, name: str) -> str:
        """Return the uid of an object that a served object controls; empty if there is none of that name."""
        owner = Owner(self.kinds.served[key.kind].resource, key.name, uid)
        held = self._shelves.get((key.namespace, uid), {}).get(resource.kind, {}).get(name)
        return held.uid if held is not None and belongs(held.claimed, name, owner) else ""

    def most(self, namespace: str, uid: str) -> int:
        """Return how many objects of one kind may be an object's, of the kind that has most."""
        return max(map(len, self._shelves.get((namespace, uid), {}).values()), default=0)

    def entry(self, kind: str, namespace: str, name: str) -> tuple[str, int]:
        """Return uid and version of an object that exists; empty and 0 if it is not here."""
        place = self._places[kind].get((namespace, name))
        held = self._shelves[place][kind].get(name) if place is not None else None
        return (held.uid, held.version) if held is not None else ("", 0)

    def known(self, kind: str) -> Iterator[tuple[str, str, str, int]]:
        """Yield (namespace, name, uid, version) of every object of a kind that exists, as of now."""
        for namespace, name in list(self._places[kind]):
            yield namespace, name, *self.entry(kind, namespace, name)

    def count(self, kind: str) -> int:
        """Return how many objects of a kind are here."""
        return len(self._places[kind])

    def _belongs(self, owned: OwnedResource[Any], name: str, held: _Held, owner: Owner, key: ObjectKey) -> bool:
        """Return whether an object that has the owner's label belongs to it; say once of one that does not."""
        if belongs(held.claimed, name, owner):
            return True
        if held.uid not in self._strangers:
            self._strangers.add(held.uid)
            what = owned.resource.kind
            logger.warning("%s: %s %s is labelled as an attempt, but is none; it is ignored", key, what, name)
        return False

    def _drop_orphans(self, owned: OwnedResource[Any], shelves: _Shelves, namespace: str) -> None:
        """Forget the objects that are gone and whose controller is gone as well."""
        kind, through = owned.resource.kind, shelves.get(owned.through.kind, {}) if owned.through else {}
        shelf = shelves.get(kind, {})
        for name in [name for name in shelf if (namespace, name) not in self._places[kind]]:
            if shelf[name].claimed.job not in through:
                del shelf[name]

    def _tidy(self, place: OwnerId) -> None:
        if not any(self._shelves[place].values()):
            del self._shelves[place]


def _read(owned: OwnedResource[Any], body: Body, now: datetime, before: _Held | None, shelf: dict[str, _Held]) -> _Held:
    """Return what is kept of a body."""
    metadata = body["metadata"]
    same = before is not None and before.uid == metadata["uid"]
    try:
        claimed, value = Claimed.of(body), owned.read(body, now, before.value if before and same else None)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        # Anybody may write an object with our label. It must not keep those of others from being listed or watched.
        what = owned.resource.kind.lower()
        logger.warning("%s %s/%s can't be read; it is nobody's", what, metadata["namespace"], metadata["name"])
        claimed, value = _NOBODYS, owned.unread(body)
    # The Pods of an attempt say the same of whose they are: one value for all of them.
    last = next(reversed(shelf.values()), None)
    if last is not None and last.claimed == claimed:
        claimed = last.claimed
    return _Held(metadata["uid"], int(metadata["resourceVersion"]), claimed, value)


def _through(owned: OwnedResource[Any], shelf: Mapping[str, _Held], owner: Owner, uids: Mapping[str, str]) -> list[Any]:
    """Return what was read of the objects whose controller belongs to an owner.

    Thousands say the same of whose they are, in one value: it is judged once for all that stand together.
    """
    found = []
    last, ours = _NOBODYS, False
    for name, held in shelf.items():
        if held.claimed is not last:
            last = held.claimed
            ours = belongs(last, name, owner, owned.through, uids)
        if ours:
            found.append(held.value)
    return found
