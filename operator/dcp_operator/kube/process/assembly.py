"""The operator's parts, put together: what feeds the view, what decides by it, what acts."""

from dataclasses import dataclass
from typing import Self

from dcp_operator.kube.channel.coverage import Coverage
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.channel.targets import TargetReader
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES, STORES, ObjectKey
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.client.metrics import PHASES
from dcp_operator.kube.feed.resync import Resync
from dcp_operator.kube.loop.checkpoint import CheckpointReconciler
from dcp_operator.kube.loop.disruptions import Disruptions
from dcp_operator.kube.loop.last_checkpoint import Announcer
from dcp_operator.kube.loop.queue import WorkQueue
from dcp_operator.kube.loop.reconcile import ReconcileContext, Reconcilers
from dcp_operator.kube.loop.series import SeriesReconciler
from dcp_operator.kube.loop.stores import StoreReconciler
from dcp_operator.kube.process.settings import Settings
from dcp_operator.kube.process.training_channel import TrainingChannel
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.attempts import ProgressReader
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.data_removals import DataRemovals
from dcp_operator.kube.view.holding_series import HoldingSeries
from dcp_operator.kube.view.last_checkpoints import LastCheckpoints
from dcp_operator.kube.view.live_claims import LiveClaims
from dcp_operator.kube.view.named_stores import NamedStores
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.kube.view.stores import Stores
from dcp_operator.kube.view.targeted_saves import TargetedSaves
from dcp_operator.objects.job import Builder


@dataclass(frozen=True)
class Assembly:
    """What a process runs and stops."""

    view: ClusterView
    queue: WorkQueue[ObjectKey]
    resync: Resync
    recorder: EventRecorder
    progress: ProgressReader
    hub: Hub
    announcer: Announcer
    disruptions: Disruptions

    @classmethod
    def of(cls, settings: Settings, cluster: Cluster, *, channel: TrainingChannel | None = None) -> Self:
        """Put the parts together. Nothing runs yet.

        Args:
            settings: How to run.
            cluster: The connection to the API server.
            channel: By which trainings can reach this process; None where they can't.
        """
        queue: WorkQueue[ObjectKey]

        def busy() -> bool:
            return queue.depth > 0

        def add(key: ObjectKey) -> None:
            queue.add(key)

        cache = Cache(site=settings.site)
        live_claims = LiveClaims(cache, add)
        saves = TargetedSaves(cache)
        series_runs = SeriesRuns(add)
        adopting = AdoptingSeries(cache, series_runs)
        hub = Hub(saves, adopting, add)
        removals = DataRemovals(add)
        commits, holding = LastCheckpoints(cache), HoldingSeries()
        stores = Stores(add)
        named = NamedStores(cache, stores)
        indexes = {
            CHECKPOINTS.kind: (PHASES, live_claims, saves, series_runs, removals, commits, stores),
            SERIES.kind: (series_runs, adopting, holding),
            STORES.kind: (stores, named),
        }
        view = ClusterView(cache, indexes, named, add)
        recorder, progress = EventRecorder(cluster, busy), ProgressReader(cluster, add)
        context = ReconcileContext(cluster, view, recorder, busy, wake=add)
        builder = Builder(
            image=settings.worker_image,
            security=settings.pod_security,
            user=settings.worker_uid,
            isolation=settings.isolation,
        )
        served = hub if channel is not None else None
        targets = TargetReader(cluster, served)
        coverage = Coverage(cluster, channel.unasked) if channel is not None else Coverage(cluster)
        checkpoints = CheckpointReconciler(
            context,
            live_claims=live_claims,
            series=series_runs,
            removals=removals,
            targets=targets,
            builder=builder,
            progress=progress,
        )
        series = SeriesReconciler(context, runs=series_runs, hub=served, coverage=coverage, holding=holding)
        reconcilers = Reconcilers.of(context, checkpoints, series, StoreReconciler(context, stores=stores))
        queue = WorkQueue(reconcilers, workers=settings.workers, rest=reconcilers.rest)
        resync = Resync(cluster, view, add, settings.namespaces or (None,))
        announcer, disruptions = Announcer(cluster, commits), Disruptions(context, series_runs, holding, hub, coverage)
        return cls(view, queue, resync, recorder, progress, hub, announcer, disruptions)
