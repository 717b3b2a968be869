"""The series that take the saves which a training makes by itself, as they stand in the cluster: an index.

What an agent is told of such a save derives from the statuses of Checkpoints and of series alone, as for requests
(`targeted_saves`): a new process of the operator says the same.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import SeriesStatus
from dcp_operator.controllers.series.adoption import is_of_target, is_settled, means_to_remove, removes_for
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.controllers.target.reported import own_saves
from dcp_operator.kube.client.api import ObjectKey
from dcp_operator.kube.view.by_target import ByTarget, target_of
from dcp_operator.kube.view.cache import Cache
from dcp_operator.kube.view.series_runs import SeriesRuns


@dataclass
class AdoptingSeries:
    """Which series have a training as their target.

    Args:
        cache: Where the series are parsed.
        runs: Their Checkpoints.
        changed: Called with each namespace in which something has changed.
        now: The clock.
    """

    cache: Cache
    runs: SeriesRuns
    changed: Callable[[str], None] = field(default=lambda _: None)
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    _known: dict[str, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set), init=False)
    """By namespace, those with a target."""
    _by_target: ByTarget = field(default_factory=ByTarget, init=False)

    @property
    def namespaces(self) -> list[str]:
        """The namespaces that have a series with a target."""
        return sorted(name for name, keys in self._known.items() if keys)

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in the body of a series."""
        spec = ((body.get("spec") or {}).get("template") or {}).get("spec") or {}
        there = bool(spec.get("target")) and not body["metadata"].get("deletionTimestamp")
        if there:
            self._known[key.namespace].add(key)
            self._by_target.put(key, body)
        else:
            self._forget(key)
        self.changed(key.namespace)

    def drop(self, key: ObjectKey) -> None:
        """Forget a series that is gone."""
        self._forget(key)
        self.changed(key.namespace)

    def any_of(self, namespace: str) -> ReadBody | None:
        """Return the body of a series with a target; None if the namespace has none."""
        return next(filter(None, map(self.cache.served.body, sorted(self._known.get(namespace, ())))), None)

    def takers(self, namespace: str, agent: ConnectedAgent) -> Iterator[ObjectKey]:
        """Yield the series that take what the training of an agent saves by itself."""
        yield from (key for key, series in self._parsed(namespace, agent) if is_of_target(series, agent))

    def retention(self, namespace: str, agent: ConnectedAgent) -> str:
        """Return the series that removes old checkpoints in place of an agent; empty where none does."""
        return next((key.name for key in self._by_target.of(namespace, agent.labels) if self._removes(key, agent)), "")

    def _removes(self, key: ObjectKey, agent: ConnectedAgent) -> bool:
        series = self.cache.served.parsed(key)
        if isinstance(series, Series):
            return removes_for(series, agent)
        body = self.cache.served.body(key) or {}
        return means_to_remove(body, target_of(body), agent)

    def settled(self, namespace: str, agent: ConnectedAgent) -> frozenset[str]:
        """Return the saves that training made by itself and that its agent need not list any more, by their ids."""
        left = list(own_saves(agent))
        for key, series in self._parsed(namespace, agent) if left else ():
            status = SeriesStatus.read((self.cache.served.body(key) or {}).get("status"))
            runs = self.runs.of(key.namespace, series.uid)
            left = [each for each in left if is_settled(series, runs, status, agent, each, self.now())]
        return frozenset(each.id for each in left)

    def _forget(self, key: ObjectKey) -> None:
        self._known[key.namespace].discard(key)
        self._by_target.drop(key)

    def _parsed(self, namespace: str, agent: ConnectedAgent) -> Iterator[tuple[ObjectKey, Series]]:
        """Yield the series that an agent may have to do with. Each agent asks, at each change in its namespace."""
        for key in self._by_target.of(namespace, agent.labels):
            series = self.cache.served.parsed(key)
            if isinstance(series, Series) and series.adopts:
                yield key, series
