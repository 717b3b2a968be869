"""The interface to kopf: which resources to watch, and what to call with each change."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypedDict

import kopf
from kubernetes.aio.client.configuration import Configuration

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import GROUP
from dcp_operator.kube.client.api import Resource
from dcp_operator.kube.kopf_seam.internals import Forgetful, read_any_depth, read_any_retry_after

INACTIVITY_SECONDS: Final = 40.0
"""A watch that brings not so much as a bookmark for this long is taken for dead, and opened anew where it stood."""
REQUEST_SECONDS: Final = 30.0
CONNECT_SECONDS: Final = 5.0
CHUNK: Final = 250
"""Objects per page of a list."""
IDLE_SECONDS: Final = 0.2
"""kopf keeps a task per object that it hears of, for this long. Ours have nothing to wait for."""
EXIT_SECONDS: Final = 60.0


class Change(Enum):
    """What is heard of an object."""

    LISTED = "LISTED"
    """It is there, as of a list: the first one, or one after a gap."""
    CHANGED = "CHANGED"
    """It was created or updated."""
    DELETED = "DELETED"
    """It is gone, or has lost the label that the watch selects by."""


@dataclass(frozen=True)
class Watch:
    """One resource to watch.

    Args:
        resource: Which.
        selector: A label that the objects have; empty for all objects.
        hear: Called with each change and the object's body, in the event loop. It must not raise.
    """

    resource: Resource
    selector: str
    hear: Callable[[Change, Body], None]

    @property
    def selects(self) -> tuple[str, str, str]:
        """Kopf's name of the resource: group, version, plural."""
        group, _, version = self.resource.api_version.rpartition("/")
        return group, version, self.resource.plural


async def watch(
    watches: Sequence[Watch],
    configuration: Configuration,
    namespaces: Sequence[str],
    *,
    stop: asyncio.Event,
    ready: asyncio.Event,
) -> None:
    """Keep the watches open until told to stop.

    Args:
        watches: What to watch.
        configuration: Address and credentials of our own client.
        namespaces: Which namespaces to watch; none means all.
        stop: Ends the watches.
        ready: Is set once kopf runs.
    """
    read_any_depth()
    read_any_retry_after()
    await kopf.operator(
        registry=_registry(watches, configuration),
        settings=settings(watches),
        memories=Forgetful(),
        standalone=True,
        clusterwide=not namespaces,
        namespaces=namespaces,
        stop_flag=stop,
        ready_flag=ready,
    )


def settings(watches: Sequence[Watch] = ()) -> kopf.OperatorSettings:
    """Return kopf's settings for many objects, few words and watches that may die."""
    made = kopf.OperatorSettings()
    made.posting.enabled = False
    made.scanning.disabled = True
    made.networking.request_timeout = REQUEST_SECONDS
    made.networking.connect_timeout = CONNECT_SECONDS
    made.networking.error_backoffs = _Patience()
    made.watching.inactivity_timeout = INACTIVITY_SECONDS
    made.watching.connect_timeout = CONNECT_SECONDS
    made.watching.chunk_size = CHUNK
    made.queueing.idle_timeout = IDLE_SECONDS
    made.persistence.finalizer = f"{GROUP}/none"
    made.persistence.diffbase_storage = _Nothing()
    made.process.ultimate_exiting_timeout = EXIT_SECONDS
    for each in watches:
        if each.selector:
            made.watching.label_selectors[each.selects] = each.selector
    return made


def _registry(watches: Sequence[Watch], configuration: Configuration) -> kopf.OperatorRegistry:
    handlers = kopf.OperatorRegistry()

    async def login(**_: object) -> kopf.ConnectionInfo:
        return await _connection(configuration)

    kopf.on.login(registry=handlers)(login)
    for each in watches:
        name = each.resource.plural
        kopf.on.event(*each.selects, registry=handlers, id=name, when=_filter(each.hear))(_never_called)
    return handlers


class _KopfEvent(TypedDict):
    type: str | None
    object: Body


_CHANGES: Final = {None: Change.LISTED, "DELETED": Change.DELETED}
"""What an event's type says; any other type is a change."""


def _filter(hear: Callable[[Change, Body], None]) -> Callable[..., bool]:
    """Return the filter that hands every event on, and lets none through to a handler."""

    def when(event: _KopfEvent, **_: Any) -> bool:  # noqa: ANN401 - what kopf passes beside the event
        kind = event["type"]
        hear(_CHANGES.get(kind, Change.CHANGED), event["object"])
        return False

    return when


async def _never_called(**_: object) -> None:
    """Stand where kopf wants a handler."""


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
