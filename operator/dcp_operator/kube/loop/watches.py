"""kopf's part: the watches on Checkpoints, Jobs and Pods, which feed the cache and the work queue.

Only low-level event handlers are used. So kopf adds no finalizer (which would hang a namespace that is deleted while
no operator runs), writes no annotation and keeps no state in the objects; what it would keep in memory for each object
is not kept either, since ten thousand finished Checkpoints would pay for it.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypedDict

import kopf
from kubernetes.aio.client.configuration import Configuration

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import GROUP, UID_LABEL
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, PODS, Resource
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.loop.reconcile import Reconciler
from dcp_operator.kube.view.cache import Cache, ObjectKey

WATCHED: Final = (CHECKPOINTS, JOBS, PODS)

INACTIVITY_SECONDS: Final = 40.0
"""Of a watch without so much as a bookmark, before it is opened anew where it stood: so a dead one is noticed."""
REQUEST_SECONDS: Final = 30.0
CHUNK: Final = 250
FIRST_LOOK: Final = 5
LOOK_SPREAD: Final = 55
"""Within which seconds after a start, or a list after a gap, finished Checkpoints are looked at: the live go first."""
IDLE_SECONDS: Final = 0.2
"""kopf keeps a task per object that was heard of; ours have nothing to wait for."""


def selector(resource: Resource) -> str:
    """Return the label selector that leaves other people's Jobs and Pods in the API server."""
    return "" if resource is CHECKPOINTS else UID_LABEL


def registry(
    reconciler: Reconciler, queue: WorkQueue[ObjectKey], configuration: Configuration
) -> kopf.OperatorRegistry:
    """Return kopf's handlers: every event goes to the cache, every news to the queue."""
    handlers = kopf.OperatorRegistry()

    async def login(**_: object) -> kopf.ConnectionInfo:
        return await _connection(configuration)

    kopf.on.login(registry=handlers)(login)
    for resource in WATCHED:
        group, _, version = resource.api_version.rpartition("/")
        hear = _listener(resource, reconciler, queue)
        kopf.on.event(group, version, resource.plural, registry=handlers, id=resource.plural, when=hear)(_heard)
    return handlers


def settings() -> kopf.OperatorSettings:
    """Return kopf's settings for many objects, few words and watches that may die."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.networking.request_timeout = REQUEST_SECONDS
    made.networking.connect_timeout = 5.0
    made.networking.error_backoffs = _Patience()
    made.watching.inactivity_timeout = INACTIVITY_SECONDS
    made.watching.connect_timeout = 5.0
    made.watching.chunk_size = CHUNK
    made.queueing.idle_timeout = IDLE_SECONDS
    made.persistence.finalizer = f"{GROUP}/none"
    made.persistence.diffbase_storage = _Nothing()
    made.process.ultimate_exiting_timeout = 60.0
    for resource in WATCHED:
        if wanted := selector(resource):
            group, _, version = resource.api_version.rpartition("/")
            made.watching.label_selectors[group, version, resource.plural] = wanted
    return made


class _Event(TypedDict):
    type: str | None
    object: Body


class _Nothing(kopf.DiffBaseStorage):
    """kopf's copy of each object's last state, which is neither made nor stored."""

    def build(self, **_: object) -> kopf.BodyEssence:
        return kopf.BodyEssence()

    def fetch(self, **_: object) -> kopf.BodyEssence | None:
        return None

    def store(self, **_: object) -> None:
        return None


class _Patience(Iterable[float]):
    """Delays between tries for as long as the API server is away; kopf gives up at the end of a finite list."""

    def __iter__(self) -> Iterator[float]:
        seconds = 0.5
        while True:
            yield seconds
            seconds = min(5.0, seconds * 2)


def _listener(resource: Resource, reconciler: Reconciler, queue: WorkQueue[ObjectKey]) -> Callable[..., bool]:
    """Return the filter of a kind's events, which does all there is to do with an event, and lets none through.

    kopf's execution of a handler costs several times what its filters do, and what we do with an event is one look at
    a dict: ten thousand finished Checkpoints are some forty thousand events at every start.
    """

    def hear(event: _Event, **_: object) -> bool:
        body = event["object"]
        if event["type"] == "DELETED":
            metadata = body["metadata"]
            reconciler.ingest(resource, body)
            version = int(metadata["resourceVersion"])
            key = reconciler.forget(resource, metadata["namespace"], metadata["name"], metadata["uid"], version)
        else:
            key = reconciler.ingest(resource, body)
        if key is not None and event["type"] is None:
            enqueue_listed(reconciler.cache, queue, key)
        elif key is not None:
            queue.add(key)
        return False

    return hear


def enqueue_listed(cache: Cache, queue: WorkQueue[ObjectKey], key: ObjectKey) -> None:
    """Have a Checkpoint looked at that a list names: a live one at once, a finished one within the minute."""
    if cache.at_rest(key):
        queue.add_after(key, FIRST_LOOK + zlib.crc32(str(key).encode()) % LOOK_SPREAD)
    else:
        queue.add(key)


async def _heard(**_: object) -> None:
    """Have nothing left to do."""


async def _connection(configuration: Configuration) -> kopf.ConnectionInfo:
    """Return the address and credentials of our own client, freshly read: kopf asks again after a 401."""
    authorization = (await configuration.auth_settings()).get("BearerToken", {}).get("value") or ""
    token = str(authorization).partition(" ")[2]
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert or None,
        insecure=not configuration.verify_ssl,
        token=token or None,
        certificate_path=configuration.cert_file or None,
        private_key_path=configuration.key_file or None,
    )
