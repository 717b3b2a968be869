"""An operator that looks after the trainings of series with an onDisruption, over an API server in memory."""

import asyncio
from typing import Any, Final

from channel_rig import STATE
from dcp_operator.kube.channel.callers import Caller
from dcp_operator.kube.channel.coverage import Coverage
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.client.api import (
    CHECKPOINTS,
    JOBS,
    NODES,
    PODS,
    SERIES,
    ObjectKey,
    Resource,
)
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.loop.disruptions import Disruptions
from dcp_operator.kube.loop.reconcile import ReconcileContext
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.holding_series import HoldingSeries
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.kube.view.targeted_saves import TargetedSaves
from fake_api import FakeApi
from scenes import at, stamp
from series_scenes import TARGET, series_manifest

LABELS: Final = {"batch.kubernetes.io/job-name": "train"}
KEY: Final = SERIES.key("team", "nightly")
HOLDING: Final = {**TARGET, "spec.storage": None, "spec.onDisruption": {"hold": "10m"}}
RANK0: Final = Caller(namespace="team", pod="rank0", uid="uid-rank0")
NO_WEBHOOK: Final = "there is no webhook"


class World:
    """An operator over an API server in memory, with a clock that is set by hand. The test is Kubernetes."""

    def __init__(
        self, unasked: str | None = NO_WEBHOOK, api: FakeApi | None = None, served_since: float = -3600
    ) -> None:
        self.api, self.now, self.unasked = api or FakeApi(), at(0), unasked
        cache, woken = Cache(), list[ObjectKey]()
        runs, self.holding = SeriesRuns(woken.append), HoldingSeries()
        self.view = ClusterView(cache, {CHECKPOINTS.kind: (runs,), SERIES.kind: (runs, self.holding)})
        self.hub = Hub(TargetedSaves(cache), AdoptingSeries(cache, runs), woken.append)
        self.hub.since = at(served_since)
        self.recorder = EventRecorder(self.api, lambda: True)
        self.woken = woken
        context = ReconcileContext(self.api, self.view, self.recorder, now=lambda: self.now, wake=woken.append)
        coverage = Coverage(self.api, lambda: self.unasked)
        self.disruptions = Disruptions(context, runs, self.holding, self.hub, coverage, self.seconds)
        self.put_series()
        self.api.add(NODES, {"metadata": {"name": "node", "namespace": ""}, "spec": {}})
        self.pod("rank0")

    def seconds(self) -> float:
        return (self.now - at(0)).total_seconds()

    def put_series(self, **changes: Any) -> None:
        self.view.ingest(SERIES, self.api.add(SERIES, series_manifest({**HOLDING, **changes})))

    def pod(self, name: str, **labels: str) -> None:
        metadata = {"name": name, "namespace": "team", "labels": {**LABELS, **labels}}
        self.api.add(PODS, {"metadata": metadata, "spec": {"nodeName": "node"}, "status": {"phase": "Running"}})

    def cordon(self, *, cordoned: bool = True) -> None:
        node = self.api.objects[NODES.path("", "node")]
        node["spec"] = {"unschedulable": cordoned}

    def connect(self) -> None:
        self.hub.hear(RANK0, STATE, LABELS)

    def round(self, second: float, *, jobs_start: bool = True) -> list[str]:
        """Look at all once; return what is written. Jobs that were made start after it."""

        async def once() -> None:
            await self.disruptions.look()

        self.now = at(second)
        self.api.writes()
        asyncio.run(once())
        for body in self.of(JOBS) if jobs_start else ():
            body.setdefault("status", {}).setdefault("startTime", stamp(second))
        return self.api.writes()

    def of(self, resource: Resource) -> list[dict[str, Any]]:
        return [each for each in self.api.objects.values() if each["kind"] == resource.kind]

    def committed(self, second: float) -> None:
        """Have the Save before a disruption end."""
        (save,) = self.of(CHECKPOINTS)
        status = {"phase": "Succeeded", "reason": "Saved", "completionTime": stamp(second), "runId": ""}
        body = {**save, "status": status, "metadata": {**save["metadata"]}}
        self.view.ingest(CHECKPOINTS, self.api.add(CHECKPOINTS, body))
