"""Series by the labels of their targets: which has to do with a pod, without a look at each of its namespace."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from dcp_operator.api.checkpoint.target import Target
from dcp_operator.api.json_types import ReadBody
from dcp_operator.kube.client.api import ObjectKey

_Label = tuple[str, str, str]
"""A namespace, and a label with its value."""


@dataclass
class ByTarget:
    """Where series are found by one label of their target: a pod of the target has it."""

    _labels: dict[ObjectKey, _Label] = field(default_factory=dict, init=False)
    _keys: dict[_Label, set[ObjectKey]] = field(default_factory=lambda: defaultdict(set), init=False)

    def put(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in a series, as it stands now."""
        target = target_of(body)
        self.drop(key)
        if target is not None and target.labels:
            label = (key.namespace, *min(target.labels.items()))
            self._labels[key] = label
            self._keys[label].add(key)

    def drop(self, key: ObjectKey) -> None:
        """Forget a series."""
        label = self._labels.pop(key, None)
        if label is not None:
            self._keys[label].discard(key)
            if not self._keys[label]:
                del self._keys[label]

    def of(self, namespace: str, labels: Mapping[str, str]) -> list[ObjectKey]:
        """Return the series that a pod with these labels may be of, in the order of their names; no other is."""
        found = (self._keys.get((namespace, *each), ()) for each in labels.items())
        return sorted(key for keys in found for key in keys)


def target_of(body: ReadBody) -> Target | None:
    """Return the target that the body of a series names; None where there is none that makes sense."""
    spec = ((body.get("spec") or {}).get("template") or {}).get("spec") or {}
    return Target.read(spec.get("target"))
