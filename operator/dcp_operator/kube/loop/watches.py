"""What is done with each change that a watch brings: the cache gets the object, the queue the Checkpoint behind it."""

import zlib
from collections.abc import Callable
from typing import Final

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import UID_LABEL
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, PODS, Resource
from dcp_operator.kube.kopf_seam.watching import Change, Watch
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.loop.reconcile import Reconciler
from dcp_operator.kube.view.cache import Cache, ObjectKey

WATCHED: Final = (CHECKPOINTS, JOBS, PODS)

FIRST_LOOK: Final = 5
LOOK_SPREAD: Final = 55
"""Finished Checkpoints are looked at again FIRST_LOOK to FIRST_LOOK + LOOK_SPREAD seconds after a list names them, each
at a time of its own, so that live Checkpoints go first."""


def selector(resource: Resource) -> str:
    """Return the label selector that leaves other people's Jobs and Pods in the API server."""
    return "" if resource is CHECKPOINTS else UID_LABEL


def watches(reconciler: Reconciler, queue: WorkQueue[ObjectKey]) -> list[Watch]:
    """Return what to watch."""
    return [Watch(each, selector(each), listener(each, reconciler, queue)) for each in WATCHED]


def listener(resource: Resource, reconciler: Reconciler, queue: WorkQueue[ObjectKey]) -> Callable[[Change, Body], None]:
    """Return what is called with each change of a resource's objects."""

    def hear(change: Change, body: Body) -> None:
        key = reconciler.ingest(resource, body)
        if change is Change.DELETED:
            metadata = body["metadata"]
            version = int(metadata["resourceVersion"])
            key = reconciler.forget(resource, metadata["namespace"], metadata["name"], metadata["uid"], version)
        if key is not None and change is Change.LISTED:
            enqueue_listed(reconciler.cache, queue, key)
        elif key is not None:
            queue.add(key)

    return hear


def enqueue_listed(cache: Cache, queue: WorkQueue[ObjectKey], key: ObjectKey) -> None:
    """Have a Checkpoint looked at that a list names: a live one at once, a finished one within the minute."""
    if cache.at_rest(key):
        queue.add_after(key, FIRST_LOOK + zlib.crc32(str(key).encode()) % LOOK_SPREAD)
    else:
        queue.add(key)
