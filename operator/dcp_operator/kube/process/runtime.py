"""The operator's parts, put together and run: watches, queue, resync, probes, Lease."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from kubernetes.aio.client.api_client import ApiClient

from dcp_operator.api.site import CLUSTER
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey, Resource
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.client.transport import load_configuration
from dcp_operator.kube.feed.initial_list import fill
from dcp_operator.kube.feed.resync import Resync
from dcp_operator.kube.feed.watches import watches
from dcp_operator.kube.kinds.registry import KINDS
from dcp_operator.kube.kopf_seam.watching import watch
from dcp_operator.kube.loop.checkpoint import CheckpointReconciler
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.loop.reconcile import Common, Reconcilers
from dcp_operator.kube.process.health import STUCK_SECONDS, Health, serving
from dcp_operator.kube.process.leader import Election
from dcp_operator.kube.process.settings import Settings
from dcp_operator.kube.view.cache import Cache
from dcp_operator.kube.view.intake import CountedPhases, View
from dcp_operator.kube.view.live_saves import LiveSaves
from dcp_operator.kube.view.progress import ProgressReader
from dcp_operator.objects.job import Builder

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
    """

    settings: Settings
    cluster: Cluster
    health: Health = field(default_factory=Health)

    async def work(self) -> None:
        """Serve Checkpoints until a signal comes. Only a leader calls it."""
        queue: WorkQueue[ObjectKey]
        site = CLUSTER.model_copy(
            update={
                "protocols": self.settings.protocols or CLUSTER.protocols,
                "pod_security": self.settings.pod_security,
            }
        )
        cache = Cache(site=site)
        recorder = EventRecorder(self.cluster, lambda: queue.depth > 0)
        progress = ProgressReader(self.cluster, lambda key: queue.add(key))  # noqa: PLW0108 - there is no queue yet
        builder = Builder(
            image=self.settings.worker_image,
            security=self.settings.pod_security,
            user=self.settings.worker_uid,
            isolation=self.settings.isolation,
        )
        live_saves = LiveSaves(cache, lambda key: queue.add(key))  # noqa: PLW0108 - there is no queue yet
        view = View(cache, {CHECKPOINTS.kind: (CountedPhases(), live_saves)})
        common = Common(self.cluster, view, recorder, lambda: queue.depth > 0)
        checkpoints = CheckpointReconciler(common, live_saves=live_saves, builder=builder, progress=progress)
        reconcilers = Reconcilers.of(common, checkpoints)
        queue = WorkQueue(reconcilers, workers=self.settings.workers, rest=reconcilers.rest)
        resync = Resync(self.cluster, view, queue.add, self.settings.namespaces or (None,))
        self._watch_over(queue, resync, cache)
        stop, ready = asyncio.Event(), asyncio.Event()
        await fill(self.cluster, view, queue, resync.namespaces)
        logger.info("at work: %d Checkpoints", cache.count(CHECKPOINTS))
        # Before kopf's: at its end it waits for, and cancels, every task that was started after it.
        recorder.start()
        queue.start()
        caring = asyncio.create_task(self._care(resync, stop, ready), name="resync")
        try:
            await watch(
                watches(view, queue),
                self.cluster.client.configuration,
                self.settings.namespaces,
                stop=stop,
                ready=ready,
            )
        finally:
            caring.cancel()
            progress.stop()
            await queue.stop()
            await recorder.stop()
            await asyncio.gather(caring, return_exceptions=True)

    async def _care(self, resync: Resync, stop: asyncio.Event, ready: asyncio.Event) -> None:
        """Resync the watches once they are open; a failure ends the process."""
        await ready.wait()
        # In place of kopf's: on a signal it would wait five seconds for its own waiter on the stop flag.
        _on_signal(stop.set)
        try:
            metrics.IN_SERVICE.set(1)
            await resync.forever()
        except Exception:
            logger.exception("the resync failed")
            stop.set()

    def _watch_over(self, queue: WorkQueue[ObjectKey], resync: Resync, cache: Cache) -> None:
        metrics.QUEUE_DEPTH.set_function(lambda: queue.depth + queue.slow_depth)
        for resource in cache.kinds.watched:
            metrics.CACHED.labels(resource.plural).set_function(partial(cache.count, resource))

        def stuck() -> str:
            return "a reconcile hangs" if queue.longest_running > STUCK_SECONDS else ""

        self.health.checks += [stuck, lambda: ", ".join(f"the watch of {plural} is dead" for plural in resync.dead)]


async def run(settings: Settings) -> None:
    """Run one process of the operator until a signal comes.

    Raises:
        CrdMissingError: There is nothing to serve yet; the kubelet starts the process again.
        LostLeaseError: Another replica may work now.
    """
    cluster = await Cluster.connect(settings.identity)
    electing = ApiClient(await load_configuration())
    runtime = Runtime(settings, cluster)
    try:
        async with serving(runtime.health, settings.port):
            for kind in KINDS.served.values():
                if not await cluster.serves(kind.resource):
                    raise CrdMissingError(kind.resource)
            runtime.health.ready = True
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
