"""The channel to trainings over the life of a process: served from its start, with answers while it leads."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

from dcp_operator.controllers.decision import Event
from dcp_operator.kube.channel.callers import Callers
from dcp_operator.kube.channel.certificate import Certificate
from dcp_operator.kube.channel.evictions import Evictions
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.channel.server import Channel
from dcp_operator.kube.channel.trust import Trust
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.process.settings import Settings

logger = logging.getLogger(__name__)

_CLUSTER_DOMAIN: Final = "cluster.local"


def names_of(url: str) -> list[str]:
    """Return the names that a certificate needs for the channel's URL."""
    host = urlsplit(url).hostname or ""
    return [host, f"{host}.{_CLUSTER_DOMAIN}"] if host.endswith(".svc") else [host]


@dataclass
class TrainingChannel:
    """The channel of this process.

    Args:
        channel: The server.
        certificate: What it is known by.
        trust: Tells others of it.
    """

    channel: Channel
    certificate: Certificate
    trust: Trust
    _leads: tuple[Hub, EventRecorder] | None = None

    @contextmanager
    def led(self, hub: Hub, recorder: EventRecorder) -> Iterator[None]:
        """Answer agents while the context lasts."""
        self.channel.hub, self._leads = hub, (hub, recorder)
        hub.open()
        metrics.AGENTS.set_function(lambda: hub.count)
        try:
            yield
        finally:
            self.channel.hub, self._leads = None, None
            metrics.AGENTS.set_function(lambda: 0)
            hub.close()

    def problem(self) -> str:
        """Return what makes this process unable to go on by itself."""
        return self.certificate.expiring(datetime.now(UTC))

    def unasked(self) -> str | None:
        """Return why the API server does not ask about evictions; empty where it does, None while nobody knows."""
        return self.trust.unasked

    def namespaces(self) -> Iterable[str]:
        """Return the namespaces that get the certificates: none from a replica that stands by."""
        return self._leads[0].namespaces if self._leads is not None else ()

    def tell(self, namespace: str, event: Event) -> None:
        """Post an event about something with a target of a namespace."""
        if self._leads is None:
            return
        hub, recorder = self._leads
        if (found := hub.any_of(namespace)) is not None:
            recorder.record(found[0], dict(found[1]), event)


@asynccontextmanager
async def training_channel(settings: Settings, cluster: Cluster) -> AsyncIterator[TrainingChannel | None]:
    """Serve the channel while the context lasts; yield None where there is none."""
    callers = Callers(cluster)
    if not settings.channel_port:
        yield None
    elif not await callers.allowed():
        logger.warning(
            "no channel to trainings: this operator may not create tokenreviews, which are cluster-wide; a Checkpoint "
            "with a target waits"
        )
        yield None
    else:
        url = settings.channel_url or f"https://dcp-operator.{settings.lease_namespace}.svc:{settings.channel_port}"
        certificate = Certificate.make(names_of(url))
        trust = Trust(cluster, settings.lease_namespace, certificate.pem, url)
        evictions = Evictions(cluster, settings.namespaces, settings.site)
        service = TrainingChannel(Channel(callers, evictions=evictions), certificate, trust)
        async with service.channel.serving(certificate, settings.channel_port):
            connections = service.channel.connections
            assert connections is not None  # noqa: S101 - serving makes it
            metrics.CHANNEL_CONNECTIONS.set_function(lambda: connections.count)
            publishing = asyncio.create_task(trust.forever(service.namespaces, service.tell), name="trust")
            try:
                logger.info("the channel to trainings is at %s", url)
                yield service
            finally:
                publishing.cancel()
                await asyncio.gather(publishing, return_exceptions=True)
