"""The cache, compared with the API server: what a watch has lost, a resync finds.

A watch may die silently, and the list that follows a gap does not tell what was deleted during the gap. So from time to
time the names and versions of all objects are listed, without their bodies, and compared with the cache. What a watch
does not deliver within a few seconds is read directly, and counted against that watch. A watch that falls behind in
several resyncs in a row is dead: the liveness probe then fails.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import ApiError, GoneError, ObjectKey, Resource
from dcp_operator.kube.client.reads import Listed, Reads
from dcp_operator.kube.feed.watches import selector
from dcp_operator.kube.view.cache import ClusterView

logger = logging.getLogger(__name__)

INTERVAL: Final = 60.0
DUTY: Final = 20
"""Between two resyncs passes at least this many times the length of the first."""
PATIENCE: Final = 10.0
"""Seconds that a watch may be behind the list."""
POLL: Final = 0.05
EACH: Final = 50e-6
"""Seconds that are added to POLL for each object that is still awaited: to look at many takes longer."""
TOO_MANY: Final = 500
"""Objects that one resync reads directly at most. The rest waits for the next resync, or for a new process."""
STRIKES: Final = 3
LOOKS_BACK: Final = 10
"""Objects that one resync reads to find out whether the API server went back in time. One would do."""


class WentBackError(Exception):
    """The API server has an older state than the cache: etcd was restored. Only a new process can go on from there."""

    def __init__(self, resource: Resource, namespace: str, name: str) -> None:
        super().__init__(
            f"{resource.plural} {namespace}/{name} has an older version than was seen before: the API server's data "
            "was restored from a backup; the operator starts anew"
        )


@dataclass
class Resync:
    """Compares the cache with the API server.

    Args:
        cluster: Where to look.
        view: What is compared.
        add: Called with each object that has to be looked at again.
        namespaces: Which are served; None means all.
    """

    cluster: Reads
    view: ClusterView
    add: Callable[[ObjectKey], None]
    namespaces: Sequence[str | None] = (None,)
    _strikes: dict[str, int] = field(default_factory=dict, init=False)

    @property
    def dead(self) -> list[str]:
        """The kinds whose watch has fallen behind in STRIKES resyncs in a row."""
        return [plural for plural, count in self._strikes.items() if count >= STRIKES]

    async def forever(self) -> None:
        """Compare again and again."""
        loop = asyncio.get_running_loop()
        took = 0.0
        while True:
            await asyncio.sleep(max(INTERVAL, DUTY * took))
            began = loop.time()
            for resource in self.view.cache.kinds.watched:
                try:
                    late = await self.compare(resource)
                except ApiError as error:
                    logger.info("no resync of %s: %s", resource.plural, error)
                    continue
                self._strikes[resource.plural] = self._strikes.get(resource.plural, 0) + 1 if late else 0
                metrics.STALE_OBJECTS.labels(resource.plural).set(late)
            took = loop.time() - began

    async def compare(self, resource: Resource) -> int:
        """Bring the cache of a kind up to what a listing shows; return how many objects the watch was behind."""
        cache = self.view.cache
        wanted = selector(cache.kinds, resource)
        known = list(cache.known(resource))
        listed: list[Listed] = []
        for namespace in self.namespaces:
            listed += [each async for each in self.cluster.list_metadata(resource, namespace, wanted)]
        await self._look_back(resource, {uid: version for _, _, uid, version in known}, listed)
        uids = {each.uid for each in listed}
        vanished = [each for each in known if each[2] not in uids]
        pending = [each for each in listed if self._behind(resource, each)]
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while (pending or vanished) and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(POLL + EACH * (len(pending) + len(vanished)))
            pending = [each for each in pending if self._behind(resource, each)]
            vanished = [each for each in vanished if cache.version(resource, *each[:3]) == each[3]]
        # The list may be behind the watch. An object that the list lacks has vanished only if a direct read says so.
        gone = sum([await self._read(resource, namespace, name, uid) for namespace, name, uid, _ in vanished])
        for each in pending[:TOO_MANY]:
            await self._read(resource, each.namespace, each.name, each.uid)
        late = len(pending) + gone
        if late:
            logger.warning("the watch of %s was behind by %d objects, %d of them deleted", resource.plural, late, gone)
        return late

    async def _look_back(self, resource: Resource, known: Mapping[str, int], listed: Sequence[Listed]) -> None:
        """Find out whether the API server went back in time: then the cache would ignore all that it says from then on.

        The list alone does not tell, since it may be older than the cache. So objects that look older in the list are
        read directly.

        Raises:
            WentBackError: The API server went back in time.
        """
        cache = self.view.cache
        older = [
            each for each in listed if known.get(each.uid, 0) > each.number or cache.is_deleted(each.uid, each.number)
        ]
        for each in older[:LOOKS_BACK]:
            try:
                metadata = (await self.cluster.get(resource, each.namespace, each.name))["metadata"]
            except GoneError:
                continue
            version = int(metadata["resourceVersion"])
            back = version < known.get(each.uid, 0) or cache.is_deleted(each.uid, version)
            if metadata["uid"] == each.uid and back:
                raise WentBackError(resource, each.namespace, each.name)

    def _behind(self, resource: Resource, each: Listed) -> bool:
        return self.view.cache.version(resource, each.namespace, each.name, each.uid) < each.number

    async def _read(self, resource: Resource, namespace: str, name: str, uid: str) -> bool:
        """Take in one object directly, or its absence; return whether it is gone."""
        try:
            body = await self.cluster.get(resource, namespace, name)
        except GoneError:
            gone, key = True, self.view.forget(resource, namespace, name, uid)
        else:
            gone = body["metadata"]["uid"] != uid
            if gone:
                self.view.forget(resource, namespace, name, uid)
            key = self.view.ingest(resource, body)
        if key is not None:
            self.add(key)
        return gone
