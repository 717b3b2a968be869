"""What the watches have delivered, kept small: the objects of every kind that is served, and what they own.

Two sources feed it: the watches, and the answers to our own writes, which arrive first. A body that is older than the
one that is here is ignored, so that a late watch event never takes a reconcile back in time; what was deleted stays
deleted, however late an answer about it comes. But a watch by label tells of an object that loses the label as of one
that is deleted, so what is newer than that undoes it.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from dcp_operator.api.checkpoint.parsing import SpecError
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.kube.client.api import ObjectKey, Resource
from dcp_operator.kube.client.ownership import Owner
from dcp_operator.kube.kinds.kind import Kinds, Values
from dcp_operator.kube.kinds.registry import KINDS
from dcp_operator.kube.view.owned import OwnedObjects, OwnerId
from dcp_operator.kube.view.served import ServedObjects

TOMBSTONES: Final = 20_000
"""How many deleted uids are remembered: far more than there can be answers on their way."""
_FOR_EVER: Final = 1 << 64
"""Above all versions."""


@dataclass
class Cache:
    """The operator's view of the cluster.

    Args:
        kinds: What is served.
        site: What a spec may say here.
        now: The clock, by which the times of Pods are bounded.
    """

    kinds: Kinds = KINDS
    site: Site = CLUSTER
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _keys: dict[OwnerId, ObjectKey] = field(default_factory=dict)
    """Of the served objects, by namespace and uid."""
    _deleted: OrderedDict[str, int] = field(default_factory=OrderedDict)
    """By uid, the version as of which an object is gone."""

    def __post_init__(self) -> None:
        self._served = ServedObjects(self.site)
        self._owned = OwnedObjects(self.kinds, lambda: self.now())  # noqa: PLW0108 - a test may set another clock

    def put(self, resource: Resource, body: Body) -> ObjectKey | None:
        """Take in a body; return the object to look at again, None where there is nothing new or nobody's."""
        metadata = body["metadata"]
        uid: str = metadata["uid"]
        if self.is_deleted(uid, int(metadata["resourceVersion"])):
            return None
        self._deleted.pop(uid, None)
        kind = self.kinds.served.get(resource.kind)
        if kind is not None:
            key = resource.key(metadata["namespace"], metadata["name"])
            if not self._served.put(kind, key, body):
                return None
            self._keys[key.namespace, uid] = key
            return key
        place = self._owned.put(self.kinds.owned[resource.kind], body)
        return None if place is None else self._keys.get(place)

    def remove(
        self, resource: Resource, namespace: str, name: str, uid: str, version: int | None = None
    ) -> ObjectKey | None:
        """Forget an object that is gone; return the object to look at again.

        Args:
            resource: The kind.
            namespace: Where it was.
            name: What it was called.
            uid: Its uid.
            version: As of which a watch tells so: it may be back later. None for what can't be read by its name.
        """
        self._deleted[uid] = _FOR_EVER if version is None else version
        while len(self._deleted) > TOMBSTONES:
            self._deleted.popitem(last=False)
        if resource.kind in self.kinds.served:
            key = resource.key(namespace, name)
            self._keys.pop((namespace, uid), None)
            return key if self._served.remove(key, uid) else None
        place = self._owned.remove(self.kinds.owned[resource.kind], namespace, name, uid)
        return None if place is None else self._keys.get(place)

    def body(self, key: ObjectKey) -> Body | None:
        """Return a served object's body; not to be changed. None if it is not here."""
        return self._served.body(key)

    def parsed(self, key: ObjectKey, body: ReadBody | None = None) -> Any:  # noqa: ANN401 - of the kind's own type, or a SpecError
        """Return a served object as its kind parses it, or the SpecError that says what is wrong with it.

        Args:
            key: Which object.
            body: What `body` returned, where that was asked already.

        Raises:
            KeyError: It is not here.
        """
        kind = self.kinds.served[key.kind]
        found = self._served.parsed(kind, key, body)
        if not isinstance(found, SpecError):
            return found
        body = self._served.body(key) if body is None else body
        if body is None or kind.has_begun(body, None):
            return found
        observed = kind.observe(self.owned(key, body["metadata"]["uid"]))
        # An attempt that no status tells of yet: the operator ended between two writes.
        return self._served.parse(kind, key, body, begun=True) if kind.has_begun(body, observed) else found

    def at_rest(self, key: ObjectKey) -> bool:
        """Return whether an object is finished, and nothing was asked of it since."""
        return self._served.at_rest(key)

    def owned(self, key: ObjectKey, uid: str) -> Values:
        """Return what was read of the objects that belong to an object, which itself may be gone."""
        return self._owned.of(self.kinds.served[key.kind], key, uid)

    def owned_uid(self, key: ObjectKey, uid: str, resource: Resource, name: str) -> str:
        """Return the uid of an object that a served object controls; empty if there is none of that name."""
        owner = Owner(self.kinds.served[key.kind].resource, key.name, uid)
        return self._owned.uid_of(owner, key.namespace, resource, name)

    def most_owned(self, key: ObjectKey) -> int:
        """Return how many objects of one kind belong to an object, of the kind that has most."""
        return self._owned.most(key.namespace, self._served.uid(key))

    def version(self, resource: Resource, namespace: str, name: str, uid: str) -> int:
        """Return the cached version of an object; 0 if it is unknown, one above all others if it was deleted.

        Where a watch by label told of the deletion, it is the version as of which the watch did so.
        """
        if uid in self._deleted:
            return self._deleted[uid]
        if resource.kind in self.kinds.served:
            key = resource.key(namespace, name)
            return self._served.version(key) if self._served.uid(key) == uid else 0
        there, version = self._owned.entry(resource.kind, namespace, name)
        return version if there == uid else 0

    def is_deleted(self, uid: str, version: int = 0) -> bool:
        """Return whether an object was here and is known to be gone, also as of that version."""
        return self._deleted.get(uid, -1) >= version

    def known(self, resource: Resource) -> Iterator[tuple[str, str, str, int]]:
        """Yield (namespace, name, uid, version) of every object of a kind that is here, as of now."""
        where = self._served if resource.kind in self.kinds.served else self._owned
        yield from where.known(resource.kind)

    def served(self) -> list[ObjectKey]:
        """Return every served object that is here."""
        return self._served.keys()

    def count(self, resource: Resource) -> int:
        """Return how many objects of a kind are here."""
        return (self._served if resource.kind in self.kinds.served else self._owned).count(resource.kind)
