"""An API server in memory, at the seam where the operator's client sends a request: for tests of whole reconciles."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dcp_operator.api.json_types import Body
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.kube.client.api import (
    CHECKPOINTS,
    PODS,
    ApiRequest,
    ConflictError,
    GoneError,
    ObjectKey,
    Resource,
)
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.client.metrics import PHASES
from dcp_operator.kube.loop.checkpoint import CheckpointReconciler
from dcp_operator.kube.loop.reconcile import AnyReconciler, ReconcileContext
from dcp_operator.kube.view.attempts import ProgressReader
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.live_saves import LiveSaves
from dcp_operator.objects.job import Builder
from scenes import NOW, stamp

CREATED = stamp(0)


class FakeApi(Cluster):
    """Objects by path; every write is noted as `METHOD plural/name`."""

    objects: dict[str, Body]
    seen: list[str]
    refuse: Callable[[ApiRequest], Exception | None]

    def __init__(self) -> None:
        unused: Any = None
        super().__init__(unused)
        for name, value in (("objects", {}), ("seen", []), ("refuse", lambda _: None)):
            object.__setattr__(self, name, value)

    def add(self, resource: Resource, body: Body) -> Body:
        """Store an object, as somebody else would; return it with what the server adds."""
        metadata = body["metadata"]
        return self._put(resource.path(metadata["namespace"], metadata["name"]), resource.kind, body)

    def _put(self, path: str, kind: str, body: Body) -> Body:
        metadata = body["metadata"]
        given = {"uid": f"uid-{metadata['name']}", "creationTimestamp": CREATED, "generation": 1}
        self.seen.append("")
        metadata = {**given, **metadata, "resourceVersion": str(100 + len(self.seen))}
        self.objects[path] = {**body, "kind": kind, "metadata": metadata}
        return self.objects[path]

    def writes(self) -> list[str]:
        """Return what was written since the last call."""
        found = [each for each in self.seen if each]
        self.seen[:] = [""] * len(self.seen)
        return found

    def names(self, resource: Resource) -> list[str]:
        return [each["metadata"]["name"] for each in self.objects.values() if each["kind"] == resource.kind]

    async def _send(self, request: ApiRequest) -> bytes:
        refusal = self.refuse(request)
        if refusal is not None:
            raise refusal
        if request.method == "GET":
            return json.dumps(self._read(request)).encode()
        path = request.path.removesuffix("/status")
        name = path.rpartition("/")[2]
        body = request.body or {}
        if request.method == "POST":
            assert request.resource is not None
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ConflictError("exists already", 409)
            made = self._put(path, request.resource.kind, body)
            self.seen.append(f"POST {request.resource.plural}/{body['metadata']['name']}")
            return json.dumps({"metadata": made["metadata"]}).encode()
        if path not in self.objects:
            raise GoneError("not found", 404)
        there = self.objects[path]
        assert request.resource is not None
        self.seen.append(f"{request.method} {request.resource.plural}/{name}")
        if request.method == "PUT":
            return json.dumps(self._put(path, request.resource.kind, {**there, "status": body["status"]})).encode()
        wanted = body.get("preconditions", {}).get("uid")
        if wanted is not None and wanted != there["metadata"]["uid"]:
            raise ConflictError("another uid", 409)
        del self.objects[path]
        return b"{}"

    def _read(self, request: ApiRequest) -> Any:
        if request.path in self.objects:
            return self.objects[request.path]
        if request.resource is not None and request.path.rpartition("/")[2] == request.resource.plural:
            inside = [each for path, each in self.objects.items() if path.rpartition("/")[0] == request.path]
            return {"metadata": {}, "items": inside}
        raise GoneError("not found", 404)


def reconciling(api: FakeApi, site: Site = CLUSTER) -> CheckpointReconciler:
    """Return a reconciler that has seen what is there, and whose clock stands."""
    reconciler = checkpoints(api, site=site, now=lambda: NOW)
    seen(api, reconciler)
    return reconciler


def checkpoints(
    cluster: Cluster,
    *,
    site: Site = CLUSTER,
    builder: Builder | None = None,
    busy: Callable[[], bool] = lambda: False,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> CheckpointReconciler:
    """Return a reconciler of Checkpoints that has seen nothing."""
    woken: list[ObjectKey] = []
    cache = Cache(site=site)
    live_saves = LiveSaves(cache, woken.append, now)
    view = ClusterView(cache, {CHECKPOINTS.kind: (PHASES, live_saves)})
    return CheckpointReconciler(
        ReconcileContext(cluster, view, EventRecorder(cluster, lambda: True), busy, now),
        live_saves=live_saves,
        builder=builder or Builder(image="worker"),
        progress=ProgressReader(cluster, lambda _: None),
    )


def seen(api: FakeApi, reconciler: AnyReconciler) -> None:
    """Bring the watches up to date."""
    view = reconciler.view
    for resource in view.cache.kinds.watched:
        there = {each["metadata"]["uid"]: each for each in api.objects.values() if each["kind"] == resource.kind}
        for namespace, name, uid, _ in list(view.cache.known(resource)):
            if uid not in there:
                view.forget(resource, namespace, name, uid)
        for each in there.values():
            view.ingest(resource, each)


def status(api: FakeApi, key: ObjectKey) -> Body:
    """Return the status of a Checkpoint."""
    found: Body = api.objects[CHECKPOINTS.path(key.namespace, key.name)].get("status", {})
    return found


def put_pod(api: FakeApi, phase: str, state: Body) -> None:
    """Have the pod of the only Job in this phase, and its worker container in this state."""
    (job,) = [each for each in api.objects.values() if each["kind"] == "Job"]
    name = job["metadata"]["name"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": job["metadata"]["uid"], "controller": True}
    labels = job["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": "0"}
    metadata = {"name": f"{name}-0", "namespace": "team", "labels": labels, "ownerReferences": [owner]}
    body = {"phase": phase, "containerStatuses": [{"name": "worker", "state": state}]}
    api.add(PODS, {"metadata": metadata, "spec": {}, "status": body})
