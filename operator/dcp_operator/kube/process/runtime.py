"""One process of the operator, from its Lease to its end: it fills the view, opens the watches, and works."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from kubernetes.aio.client.api_client import ApiClient

from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import CHECKPOINTS, Resource
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.transport import load_configuration
from dcp_operator.kube.feed.initial_list import fill
from dcp_operator.kube.feed.resync import Resync
from dcp_operator.kube.feed.watches import watches
from dcp_operator.kube.kinds.registry import KINDS
from dcp_operator.kube.kopf_seam.watching import watch
from dcp_operator.kube.process.assembly import Assembly
from dcp_operator.kube.process.cluster_id import with_cluster_id
from dcp_operator.kube.process.health import STUCK_SECONDS, Health, serving
from dcp_operator.kube.process.leader import Election
from dcp_operator.kube.process.settings import Settings
from dcp_operator.kube.process.training_channel import TrainingChannel, training_channel

logger = logging.getLogger(__name__)


class CrdMissingError(Exception):
    """The API server does not know a kind that the operator serves."""

    def __init__(self, resource: Resource) -> None:
        super().__init__(f"the API server serves no {resource.plural}: apply manifests/crds first")


@dataclass
class Runtime:
    """One process of the operator.

    Args:
        settings: How to run.
        cluster: The connection to the API server.
        health: What the probes ask about.
        channel: The channel to trainings; None where there is none.
    """

    settings: Settings
    cluster: Cluster
    health: Health = field(default_factory=Health)
    channel: TrainingChannel | None = None

    async def work(self) -> None:
        """Serve Checkpoints until a signal comes. Only a leader calls it."""
        parts = Assembly.of(self.settings, self.cluster, channel=self.channel)
        self.watch_over(parts)
        stop, ready = asyncio.Event(), asyncio.Event()
        await fill(self.cluster, parts.view, parts.queue, parts.resync.namespaces)
        logger.info("at work: %d Checkpoints", parts.view.cache.count(CHECKPOINTS))
        # kopf waits at its end for every task that was started after it, and cancels it. So these are started before.
        parts.recorder.start()
        parts.queue.start()
        background = [
            asyncio.create_task(self._resync(parts.resync, stop, ready), name="resync"),
            asyncio.create_task(parts.announcer.forever(), name="announcer"),
        ]
        if self.channel is not None:
            background.append(asyncio.create_task(parts.disruptions.forever(), name="disruptions"))
        answering = (
            self.channel.led(parts.hub, parts.recorder) if self.channel is not None else contextlib.nullcontext()
        )
        try:
            with answering:
                await watch(
                    watches(parts.view, parts.queue),
                    self.cluster.client.configuration,
                    self.settings.namespaces,
                    stop=stop,
                    ready=ready,
                )
        finally:
            for each in background:
                each.cancel()
            parts.progress.stop()
            await parts.queue.stop()
            await parts.recorder.stop()
            await asyncio.gather(*background, return_exceptions=True)

    def watch_over(self, parts: Assembly) -> None:
        """Have the metrics and the liveness probe ask the parts."""
        cache, queue, resync = parts.view.cache, parts.queue, parts.resync
        metrics.QUEUE_DEPTH.set_function(lambda: queue.depth + queue.slow_depth)
        for resource in cache.kinds.watched:
            metrics.CACHED.labels(resource.plural).set_function(partial(cache.count, resource))

        def stuck() -> str:
            return "a reconcile hangs" if queue.longest_running > STUCK_SECONDS else ""

        self.health.checks += [stuck, lambda: ", ".join(f"the watch of {plural} is dead" for plural in resync.dead)]

    async def _resync(self, resync: Resync, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Resync once the watches are open. A failure of the resync ends the process."""
        await ready.wait()
        # In place of kopf's signal handler: on a signal, kopf waits five seconds for its own waiter on the stop flag.
        _on_signal(stop.set)
        try:
            metrics.IN_SERVICE.set(1)
            await resync.forever()
        except Exception:
            logger.exception("the resync failed")
            stop.set()


async def run(settings: Settings) -> None:
    """Run one process of the operator until a signal comes.

    Raises:
        CrdMissingError: There is nothing to serve yet; the kubelet starts the process again.
        LostLeaseError: Another replica may work now.
    """
    cluster = await Cluster.connect(settings.identity)
    electing = ApiClient(await load_configuration())
    health = Health()
    try:
        async with serving(health, settings.port), training_channel(settings, cluster) as channel:
            for kind in KINDS.served.values():
                if not await cluster.serves(kind.resource):
                    raise CrdMissingError(kind.resource)
            runtime = Runtime(await with_cluster_id(settings, cluster), cluster, health, channel)
            health.checks += [channel.problem] if channel is not None else []
            health.ready = True
            election = Election(electing, settings.lease_namespace, settings.lease_name, settings.identity)
            await _until_signal(election.lead(runtime.work) if settings.elect else runtime.work())
    finally:
        await electing.close()  # type: ignore[no-untyped-call]
        await cluster.close()


async def _until_signal(work: Awaitable[None]) -> None:
    """Run the work; a signal cancels it, until the work has a better way to end."""
    task = asyncio.ensure_future(work)
    _on_signal(task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _on_signal(end: Callable[[], object]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, end)
