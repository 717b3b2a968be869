"""What is done with each change that a watch brings: the view gets the object, the queue whose it is."""

import zlib
from collections.abc import Callable
from typing import Final

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import UID_LABEL
from dcp_operator.kube.client.api import ObjectKey, Resource
from dcp_operator.kube.kinds.kind import Kinds
from dcp_operator.kube.kopf_seam.watching import Change, Watch
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.view.cache import Cache, ClusterView

FIRST_LOOK: Final = 5
LOOK_SPREAD: Final = 55
"""Finished objects are looked at again FIRST_LOOK to FIRST_LOOK + LOOK_SPREAD seconds after a list names them, each at
a time of its own, so that live objects go first."""


def selector(kinds: Kinds, resource: Resource) -> str:
    """Return the label selector that leaves other people's Jobs and Pods in the API server."""
    return "" if resource.kind in kinds.served else UID_LABEL


def watches(view: ClusterView, queue: WorkQueue[ObjectKey]) -> list[Watch]:
    """Return what to watch."""
    kinds = view.cache.kinds
    return [Watch(each, selector(kinds, each), listener(each, view, queue)) for each in kinds.watched]


def listener(resource: Resource, view: ClusterView, queue: WorkQueue[ObjectKey]) -> Callable[[Change, Body], None]:
    """Return what is called with each change of a resource's objects."""

    def hear(change: Change, body: Body) -> None:
        key = view.ingest(resource, body)
        if change is Change.DELETED:
            metadata = body["metadata"]
            version = int(metadata["resourceVersion"])
            key = view.forget(resource, metadata["namespace"], metadata["name"], metadata["uid"], version)
        if key is not None and change is Change.LISTED:
            enqueue_listed(view.cache, queue, key)
        elif key is not None:
            queue.add(key)

    return hear


def enqueue_listed(cache: Cache, queue: WorkQueue[ObjectKey], key: ObjectKey) -> None:
    """Have an object looked at that a list names: a live one at once, a finished one within the minute."""
    if cache.served.at_rest(key):
        queue.add_after(key, FIRST_LOOK + zlib.crc32(str(key).encode()) % LOOK_SPREAD)
    else:
        queue.add(key)
