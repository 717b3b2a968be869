"""The operator's parts, put together: what feeds the view, what decides by it, what acts."""

from dataclasses import dataclass
from typing import Self

from dcp_operator.api.site import CLUSTER
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.client.metrics import PHASES
from dcp_operator.kube.feed.resync import Resync
from dcp_operator.kube.loop.checkpoint import CheckpointReconciler
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.loop.reconcile import ReconcileContext, Reconcilers
from dcp_operator.kube.process.settings import Settings
from dcp_operator.kube.view.attempts import ProgressReader
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.live_saves import LiveSaves
from dcp_operator.objects.job import Builder


@dataclass(frozen=True)
class Assembly:
    """What a process runs and stops."""

    view: ClusterView
    queue: WorkQueue[ObjectKey]
    resync: Resync
    recorder: EventRecorder
    progress: ProgressReader

    @classmethod
    def of(cls, settings: Settings, cluster: Cluster) -> Self:
        """Put the parts together. Nothing runs yet."""
        queue: WorkQueue[ObjectKey]

        def busy() -> bool:
            return queue.depth > 0

        def add(key: ObjectKey) -> None:
            queue.add(key)

        protocols = settings.protocols or CLUSTER.protocols
        site = CLUSTER.model_copy(update={"protocols": protocols, "pod_security": settings.pod_security})
        cache = Cache(site=site)
        live_saves = LiveSaves(cache, add)
        view = ClusterView(cache, {CHECKPOINTS.kind: (PHASES, live_saves)})
        recorder, progress = EventRecorder(cluster, busy), ProgressReader(cluster, add)
        context = ReconcileContext(cluster, view, recorder, busy)
        builder = Builder(
            image=settings.worker_image,
            security=settings.pod_security,
            user=settings.worker_uid,
            isolation=settings.isolation,
        )
        checkpoints = CheckpointReconciler(context, live_saves=live_saves, builder=builder, progress=progress)
        reconcilers = Reconcilers.of(context, checkpoints)
        queue = WorkQueue(reconcilers, workers=settings.workers, rest=reconcilers.rest)
        resync = Resync(cluster, view, add, settings.namespaces or (None,))
        return cls(view, queue, resync, recorder, progress)
