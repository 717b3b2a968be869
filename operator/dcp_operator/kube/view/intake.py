"""Where everything that is heard of an object goes in: the cache first, then whoever keeps an index of its kind."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import ObjectKey, Resource
from dcp_operator.kube.view.cache import Cache

logger = logging.getLogger(__name__)


class Index(Protocol):
    """Something that is kept of all objects of a kind, beside the cache."""

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Take in a body that is news; the cache has it already."""

    def drop(self, key: ObjectKey) -> None:
        """Forget an object that is gone."""


@dataclass(frozen=True)
class ClusterView:
    """The cache and its indexes, fed together.

    Args:
        cache: What is here.
        indexes: By kind, what else is kept of its objects.
    """

    cache: Cache = field(default_factory=Cache)
    indexes: Mapping[str, Sequence[Index]] = field(default_factory=dict)

    def ingest(self, resource: Resource, body: Body) -> ObjectKey | None:
        """Take in a body from wherever it came; return the object to look at again."""
        key = self.cache.put(resource, body)
        if key is not None and key.kind == resource.kind:
            for index in self.indexes.get(key.kind, ()):
                try:
                    index.note(key, body)
                except Exception:
                    # One object must not keep the others from being listed, watched or compared.
                    logger.exception("%s: what it claims can't be read", key)
        return key

    def forget(
        self, resource: Resource, namespace: str, name: str, uid: str, version: int | None = None
    ) -> ObjectKey | None:
        """Forget an object that is gone, as `Cache.remove` does; return the object to look at again."""
        key = self.cache.remove(resource, namespace, name, uid, version)
        if key is not None and key.kind == resource.kind:
            for index in self.indexes.get(key.kind, ()):
                index.drop(key)
        return key


class CountedPhases:
    """The gauge of Checkpoints by phase."""

    def note(self, key: ObjectKey, body: ReadBody) -> None:
        """Count a Checkpoint in the phase that it says."""
        metrics.PHASES.note(key.namespace, key.name, str((body.get("status") or {}).get("phase") or ""))

    def drop(self, key: ObjectKey) -> None:
        """Count a Checkpoint no more."""
        metrics.PHASES.drop(key.namespace, key.name)
