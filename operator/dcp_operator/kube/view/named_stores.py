"""Which stores there are, and who names them: an index beside the cache, by which what an object names gets a URL.

A store that changes, comes or goes has those of its namespace looked up again that are live or being deleted. Of what
is finished nobody asks where it is before something is heard of it.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dcp_operator.api.checkpoint.in_store import KEY
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.problems import SpecError
from dcp_operator.api.store.resolving import StoreState, resolved
from dcp_operator.api.store.spec import CheckpointStore
from dcp_operator.api.store.status import AVAILABLE, StoreStatus
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES, STORES, ObjectKey
from dcp_operator.kube.view.cache import Cache
from dcp_operator.kube.view.stores import Stores

_NAMING: Final = {CHECKPOINTS.kind, SERIES.kind}


@dataclass
class NamedStores:
    """The stores of every namespace, and the objects that name one.

    Args:
        cache: Where stores are parsed, and where the objects are.
        stores: Which one is the default one; it hears of a store before this index does.
    """

    cache: Cache
    stores: Stores
    _stores: dict[ObjectKey, StoreState] = field(default_factory=dict)
    _naming: dict[str, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set))
    """By namespace, the objects that are looked up again when a store changes."""
    _news: set[ObjectKey] = field(default_factory=set)
    """Stores that come to something else than before."""

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in what the body of a store says."""
        state = _state(key.name, self.cache.served.parsed(key), body)
        if self._stores.get(key) != state:
            self._stores[key] = state
            self._news.add(key)

    def drop(self, key: ObjectKey) -> None:
        """Forget a store that is gone."""
        if self._stores.pop(key, None) is not None:
            self._news.add(key)

    def of(self, namespace: str, name: str) -> StoreState | None:
        """Return a store by its name, or the namespace's default one where that is empty; None if there is none."""
        if not name:
            chosen = self.stores.default(namespace)
            return self._stores.get(chosen) if chosen is not None else None
        return self._stores.get(STORES.key(namespace, name))

    def resolve(self, key: ObjectKey, body: Body) -> Body:
        """Return a body with the URL of its storage, if it names a store there."""
        if key.kind not in _NAMING:
            return body
        body = resolved(body, self)
        over = "completionTime" in (body.get("status") or {}) and not body["metadata"].get("deletionTimestamp")
        if KEY in body and not over:
            self._naming[key.namespace].add(key)
        else:
            self._naming[key.namespace].discard(key)
        return body

    def changed(self, key: ObjectKey) -> Sequence[tuple[ObjectKey, Body]]:
        """Return the objects that come to something else since a store is news or gone, each with its new body."""
        if not self.cache.served.uid(key):
            # It is gone. In a namespace whose stores never change nobody else would forget it.
            self._naming.get(key.namespace, set()).discard(key)
        if key not in self._news:
            return ()
        self._news.discard(key)
        found: list[tuple[ObjectKey, Body]] = []
        for each in sorted(self._naming.get(key.namespace, ())):
            before = self.cache.served.body(each)
            if before is None:
                self._naming[key.namespace].discard(each)
                continue
            now = resolved(before, self)
            if (now.get(KEY), now["spec"]) != (before.get(KEY), before["spec"]):
                found.append((each, now))
        return found


def _state(name: str, parsed: CheckpointStore | SpecError, body: ReadBody) -> StoreState:
    status = StoreStatus.read(body.get("status"))
    condition = status.condition(AVAILABLE)
    seen = status.observed_generation >= body["metadata"].get("generation", 1)
    said = condition.message if condition is not None and seen else "It is not validated yet."
    return StoreState(name=name, store=parsed, available=status.available and seen, said=said)
