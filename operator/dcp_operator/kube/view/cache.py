"""What the watches have delivered, kept small: the objects of every kind that is served, and what they own.

Two sources feed it: the watches, and the answers to our own writes and deletions, which arrive first. A body that is
older than the one that is here is ignored, so that a late watch event never takes a reconcile back in time; what was
deleted stays deleted, however late an answer about it comes. But a watch by label tells of an object that loses the
label as of one that is deleted, so what is newer than that undoes it.

All that is heard of an object goes in by `ClusterView`: the cache first, then whoever keeps an index of its kind.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.kube.client.api import ObjectKey, Resource
from dcp_operator.kube.kinds.kind import Kinds
from dcp_operator.kube.kinds.registry import KINDS
from dcp_operator.kube.view.owned import OwnedObjects, OwnerId
from dcp_operator.kube.view.served import ServedObjects

logger = logging.getLogger(__name__)

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
    served: ServedObjects = field(init=False)
    owned: OwnedObjects = field(init=False)
    """What the served objects own."""
    _keys: dict[OwnerId, ObjectKey] = field(default_factory=dict, init=False)
    """Of the served objects, by namespace and uid."""
    _deleted: OrderedDict[str, int] = field(default_factory=OrderedDict, init=False)
    """By uid, the version as of which an object is gone."""

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self.owned = OwnedObjects(self.kinds)
        self.served = ServedObjects(self.kinds, self.site, self.owned)

    def put(self, resource: Resource, body: Body) -> ObjectKey | None:
        """Take in a body; return the object to look at again, None where there is nothing new or nobody's."""
        metadata = body["metadata"]
        uid: str = metadata["uid"]
        if self.is_deleted(uid, int(metadata["resourceVersion"])):
            return None
        self._deleted.pop(uid, None)
        if resource.kind in self.kinds.served:
            key = resource.key(metadata["namespace"], metadata["name"])
            if not self.served.put(key, body):
                return None
            self._keys[key.namespace, uid] = key
            return key
        place = self.owned.put(resource.kind, body, self.now())
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
            return key if self.served.remove(key, uid) else None
        place = self.owned.remove(resource.kind, namespace, name, uid)
        return None if place is None else self._keys.get(place)

    def key_of(self, namespace: str, uid: str) -> ObjectKey | None:
        """Return the key of a served object by its uid; None if it is not here."""
        return self._keys.get((namespace, uid))

    def most_owned(self, key: ObjectKey) -> int:
        """Return how many objects of one kind belong to an object, of the kind that has most."""
        return self.owned.most(key.namespace, self.served.uid(key))

    def version(self, resource: Resource, namespace: str, name: str, uid: str) -> int:
        """Return the cached version of an object; 0 if it is unknown, one above all others if it was deleted.

        Where a watch by label told of the deletion, it is the version as of which the watch did so.
        """
        if uid in self._deleted:
            return self._deleted[uid]
        if resource.kind in self.kinds.served:
            key = resource.key(namespace, name)
            return self.served.version(key) if self.served.uid(key) == uid else 0
        there, version = self.owned.entry(resource.kind, namespace, name)
        return version if there == uid else 0

    def is_deleted(self, uid: str, version: int = 0) -> bool:
        """Return whether an object was here and is known to be gone, also as of that version."""
        return self._deleted.get(uid, -1) >= version

    def known(self, resource: Resource) -> Iterator[tuple[str, str, str, int]]:
        """Yield (namespace, name, uid, version) of every object of a kind that is here, as of now."""
        where = self.served if resource.kind in self.kinds.served else self.owned
        yield from where.known(resource.kind)

    def count(self, resource: Resource) -> int:
        """Return how many objects of a kind are here."""
        return (self.served if resource.kind in self.kinds.served else self.owned).count(resource.kind)


class Index(Protocol):
    """Something that is kept of all objects of a kind, beside the cache."""

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in a body that is news; the cache has it already."""

    def drop(self, key: ObjectKey) -> None:
        """Forget an object that is gone."""


class BodyLookup(Protocol):
    """What objects name is looked up before anybody sees them: where the storage is that they name by a store."""

    def resolve(self, key: ObjectKey, body: Body) -> Body:
        """Return a body with what it names looked up, and remember that it names it."""

    def changed(self, key: ObjectKey) -> Sequence[tuple[ObjectKey, Body]]:
        """Return what comes to something else since an object is news or gone, each with its kept body as of now."""


class _NoLookup:
    """Looks nothing up."""

    def resolve(self, key: ObjectKey, body: Body) -> Body:
        """Return a body as it is."""
        del key
        return body

    def changed(self, key: ObjectKey) -> Sequence[tuple[ObjectKey, Body]]:
        """Return nothing."""
        del key
        return ()


@dataclass(frozen=True)
class ClusterView:
    """The cache and its indexes, fed together.

    Args:
        cache: What is here.
        indexes: By kind, what else is kept of its objects.
        lookup: What looks up the stores that objects name.
        wake: Has an object looked at.
    """

    cache: Cache = field(default_factory=Cache)
    indexes: Mapping[str, Sequence[Index]] = field(default_factory=dict)
    lookup: BodyLookup = field(default_factory=_NoLookup)
    wake: Callable[[ObjectKey], None] = field(default=lambda _: None)

    def ingest(self, resource: Resource, body: Body) -> ObjectKey | None:
        """Take in a body from wherever it came; return the object to look at again."""
        if resource.kind in self.cache.kinds.served:
            body = self.lookup.resolve(resource.key(body["metadata"]["namespace"], body["metadata"]["name"]), body)
        key = self.cache.put(resource, body)
        if key is not None and key.kind == resource.kind:
            self._index(key, body)
            self._look_up_again(key)
        return key

    def _look_up_again(self, changed: ObjectKey) -> None:
        for key, body in self.lookup.changed(changed):
            self.cache.served.replace(key, body)
            self._index(key, body)
            self.wake(key)

    def _index(self, key: ObjectKey, body: Body) -> None:
        for index in self.indexes.get(key.kind, ()):
            try:
                index.note(key, body)
            except Exception:
                # One object must not keep the others from being listed, watched or compared.
                logger.exception("%s: what it claims can't be read", key)

    def forget(
        self, resource: Resource, namespace: str, name: str, uid: str, version: int | None = None
    ) -> ObjectKey | None:
        """Forget an object that is gone, as `Cache.remove` does; return the object to look at again."""
        key = self.cache.remove(resource, namespace, name, uid, version)
        if key is not None and key.kind == resource.kind:
            for index in self.indexes.get(key.kind, ()):
                index.drop(key)
            self._look_up_again(key)
        return key
