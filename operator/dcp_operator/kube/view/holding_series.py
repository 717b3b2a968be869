"""Which series have their training save before its pods are evicted: an index."""

from dataclasses import dataclass, field

from dcp_operator.api.json_types import ReadBody
from dcp_operator.kube.client.api import ObjectKey
from dcp_operator.kube.view.by_target import ByTarget


@dataclass
class HoldingSeries:
    """The series with an onDisruption. It is told of every series."""

    keys: set[ObjectKey] = field(default_factory=set, init=False)
    by_budget: set[ObjectKey] = field(default_factory=set, init=False)
    """Those of which a PodDisruptionBudget holds evictions while an agent is connected: who makes it says so."""

    by_target: ByTarget = field(default_factory=ByTarget, init=False)

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in a body."""
        if (body.get("spec") or {}).get("onDisruption") and not body["metadata"].get("deletionTimestamp"):
            self.keys.add(key)
            self.by_target.put(key, body)
        else:
            self.drop(key)

    def drop(self, key: ObjectKey) -> None:
        """Forget a series that is gone."""
        self.keys.discard(key)
        self.by_target.drop(key)
        self.by_budget.discard(key)
