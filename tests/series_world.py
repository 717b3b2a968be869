"""A series and its operator over an API server in memory and a clock of the test's own: it may end at any request."""

import copy
import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import GROUP
from dcp_operator.kube.channel.coverage import Coverage
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES, STORES, ApiRequest, ObjectKey
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.loop.reconcile import ReconcileContext
from dcp_operator.kube.loop.series import SeriesReconciler
from dcp_operator.kube.view.cache import Cache, ClusterView, Index
from dcp_operator.kube.view.named_stores import NamedStores
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.kube.view.stores import Stores
from fake_api import FakeApi, seen
from scenes import NOW, manifest
from series_scenes import series_manifest

KEY = SERIES.key("team", "nightly")


class OperatorEndedError(BaseException):
    """The operator's process ends here: nothing of it goes on, and nothing is cleaned up."""


class DyingApi(FakeApi):
    """An API server of which the client's process may end at a request, before or after it had its effect."""

    left: list[int]
    """How many requests the operator lives for; empty: for ever."""
    answers_lost: list[bool]

    def __init__(self) -> None:
        super().__init__()
        object.__setattr__(self, "left", [])
        object.__setattr__(self, "answers_lost", [])

    def _put(self, path: str, kind: str, body: Body) -> Body:
        # What is made anew under a name is another object.
        made = {"uid": f"uid-{body['metadata']['name']}-{len(self.seen)}"} if path not in self.objects else {}
        return super()._put(path, kind, {**body, "metadata": {**made, **body["metadata"]}})

    async def _send(self, request: ApiRequest) -> bytes:
        if not self.left:
            return await super()._send(request)
        if self.left[0] > 0:
            self.left[0] -= 1
            return await super()._send(request)
        if self.answers_lost and self.answers_lost.pop():
            await super()._send(request)
        raise OperatorEndedError

    def dies_after(self, requests: int, *, answered: bool) -> None:
        self.left[:] = [requests]
        self.answers_lost[:] = [answered]

    def lives(self) -> None:
        self.left.clear()
        self.answers_lost.clear()


def save_id(name: str) -> str:
    """Return the id of the save of a run."""
    return hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()


class World:
    """The objects, the time, and an operator that may be started anew."""

    def __init__(self, changes: Mapping[str, Any] | None = None) -> None:
        self.api, self.now = DyingApi(), NOW
        self.woken: list[ObjectKey] = []
        self.api.add(SERIES, series_manifest(changes))
        self.start()

    def start(self) -> None:
        """Start an operator that has seen all that there is."""
        self.api.lives()
        runs, cache = SeriesRuns(self.woken.append), Cache()
        stores = Stores()
        named = NamedStores(cache, stores)
        indexes: dict[str, tuple[Index, ...]] = {
            CHECKPOINTS.kind: (runs,),
            SERIES.kind: (runs,),
            STORES.kind: (stores, named),
        }
        view = ClusterView(cache, indexes, named, self.woken.append)
        recorder = EventRecorder(self.api, lambda: True)
        context = ReconcileContext(self.api, view, recorder, now=lambda: self.now, wake=self.woken.append)
        self.recorder = recorder
        self.reconciler = SeriesReconciler(context, runs=runs, coverage=Coverage(self.api))
        self.hear()

    def hear(self) -> None:
        """Bring the operator's watches up to date."""
        seen(self.api, self.reconciler)

    async def work(self, now: datetime | None = None) -> float | None:
        """Reconcile once."""
        self.now = now or self.now
        return await self.reconciler(KEY)

    async def settle(self) -> None:
        """Hear and reconcile until nothing is written any more."""
        self.api.writes()
        for _ in range(20):
            self.hear()
            await self.reconciler(KEY)
            if not self.api.writes():
                return
        raise AssertionError("it never comes to rest")

    @property
    def series(self) -> Body:
        return self.api.objects[SERIES.path("team", "nightly")]

    @property
    def status(self) -> Body:
        found: Body = self.series.get("status") or {}
        return found

    @property
    def names(self) -> list[str]:
        """The Checkpoints that exist."""
        return sorted(self.api.names(CHECKPOINTS))

    def checkpoint(self, name: str) -> Body:
        return self.api.objects[CHECKPOINTS.path("team", name)]

    def change(self, path: str, value: object) -> None:
        """Change a field of the spec, as its author would."""
        body = copy.deepcopy(self.series)
        *parents, last = path.split(".")
        at = body
        for part in parents:
            at = at[part]
        at[last] = value
        body["metadata"]["generation"] += 1
        self.api.add(SERIES, body)

    def end(self, name: str, phase: str, **status: Any) -> None:
        """Have a run end, as its own reconciles would."""
        stamp = f"{self.now:%Y-%m-%dT%H:%M:%SZ}"
        reason, message = ("Saved", "Saved.") if phase == "Succeeded" else ("StorageDenied", "No.")
        ready = {"type": "Ready", "status": "True", "reason": reason, "message": message}
        conditions = [ready | {"lastTransitionTime": stamp, "observedGeneration": 1}]
        given = {"phase": phase, "reason": reason, "completionTime": stamp, "conditions": conditions, **status}
        self.api.add(CHECKPOINTS, {**self.checkpoint(name), "status": given})

    def save(self, name: str, step: int) -> None:
        """Have a run commit a checkpoint."""
        url = self.checkpoint(name)["spec"]["storage"]["url"]
        self.end(name, "Succeeded", checkpoint={"url": url, "saveId": save_id(name), "step": step})

    @property
    def removals(self) -> list[str]:
        """The Deletes that exist."""
        return [each for each in self.names if self.checkpoint(each)["spec"]["operation"] == "Delete"]

    def annotate(self, name: str, **annotations: str) -> None:
        """Write annotations of ours, as a person would."""
        body = self.checkpoint(name)
        ours = {f"{GROUP}/{key.replace('_', '-')}": value for key, value in annotations.items()}
        metadata = body["metadata"] | {"annotations": (body["metadata"].get("annotations") or {}) | ours}
        self.api.add(CHECKPOINTS, {**body, "metadata": metadata})

    def read(self, name: str, spec: Body, status: Body | None = None) -> ObjectKey:
        """Add a Checkpoint of somebody's that is not finished."""
        body = manifest({"metadata.name": name, "metadata.uid": f"uid-{name}"})
        self.api.add(CHECKPOINTS, body | {"spec": spec, "status": status or {}})
        return CHECKPOINTS.key("team", name)

    def remove(self, name: str) -> None:
        """Delete a Checkpoint, as a person would."""
        del self.api.objects[CHECKPOINTS.path("team", name)]
