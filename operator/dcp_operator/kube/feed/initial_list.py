"""The view, filled from lists of our own before kopf's watches begin, so that work begins in a third of the time.

kopf lists everything as well, and makes a task of each object that it lists: with ten thousand finished Checkpoints
that takes half a minute. By then kopf's list holds nothing new, and live Checkpoints have long been looked at.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from dcp_operator.kube.client.api import ApiError, ObjectKey, Resource
from dcp_operator.kube.client.reads import Reads
from dcp_operator.kube.feed.watches import enqueue_listed, selector
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.view.cache import ClusterView

logger = logging.getLogger(__name__)

AGAIN: Final = 1.0
"""Seconds until another try where the API server was in the way."""


async def fill(
    cluster: Reads, view: ClusterView, queue: WorkQueue[ObjectKey], namespaces: Sequence[str | None]
) -> None:
    """Take in all objects, and have each served one looked at: live ones at once, finished ones within a minute."""
    while True:
        try:
            await _listed(cluster, view, namespaces)
            break
        except ApiError as error:
            logger.warning("the cache can't be filled yet: %s", error)
            await asyncio.sleep(AGAIN)
    for key in view.cache.served.here():
        enqueue_listed(view.cache, queue, key)


async def _listed(cluster: Reads, view: ClusterView, namespaces: Sequence[str | None]) -> None:
    kinds = view.cache.kinds

    async def take_all(resource: Resource) -> None:
        for namespace in namespaces:
            async for body in cluster.list_bodies(resource, namespace, selector(kinds, resource)):
                view.ingest(resource, body)

    # At once: while the API server makes the next page of one, a page of another is taken in.
    await asyncio.gather(*(take_all(resource) for resource in kinds.watched))
