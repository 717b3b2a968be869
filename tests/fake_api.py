"""An API server in memory, at the seam where the operator's client sends a request: for tests of whole reconciles."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from dcp_operator.api.json_types import Body
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.channel.targets import TargetReader
from dcp_operator.kube.client.api import (
    APPLY,
    CHECKPOINTS,
    JSON,
    PODS,
    SERIES,
    STORES,
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
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.attempts import ProgressReader
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.data_removals import DataRemovals
from dcp_operator.kube.view.live_claims import LiveClaims
from dcp_operator.kube.view.named_stores import NamedStores
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.kube.view.stores import Stores
from dcp_operator.kube.view.targeted_saves import TargetedSaves
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
        if request.method == "POST":
            body = request.body or {}
            assert request.resource is not None
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                raise ConflictError("exists already", 409)
            made = self._put(path, request.resource.kind, body)
            self.seen.append(f"POST {request.resource.plural}/{body['metadata']['name']}")
            return json.dumps(made if request.accept == JSON else {"metadata": made["metadata"]}).encode()
        return json.dumps(self._changed(request, path)).encode()

    def _changed(self, request: ApiRequest, path: str) -> Body:
        if path not in self.objects:
            raise GoneError("not found", 404)
        there, body = self.objects[path], request.body or {}
        assert request.resource is not None
        self.seen.append(f"{request.method} {request.resource.plural}/{path.rpartition('/')[2]}")
        if request.content == APPLY:
            return self._put(path, request.resource.kind, applied(there, body))
        if request.method == "PATCH":
            return self._patched(path, request.resource.kind, body)
        if request.method == "PUT" and path == request.path:
            if body["metadata"]["resourceVersion"] != there["metadata"]["resourceVersion"]:
                raise ConflictError("another version", 409)
            return self._put(path, request.resource.kind, {**there, **body})
        if request.method == "PUT":
            return self._put(path, request.resource.kind, {**there, "status": body["status"]})
        wanted = body.get("preconditions", {}).get("uid")
        if wanted is not None and wanted != there["metadata"]["uid"]:
            raise ConflictError("another uid", 409)
        if there["metadata"].get("finalizers"):
            return self._put(path, request.resource.kind, held(there))
        del self.objects[path]
        return {"kind": "Status", "status": "Success"}

    def _patched(self, path: str, kind: str, patch: Body) -> Body:
        """Merge, as RFC 7396 has it; an object that is being deleted goes with its last finalizer."""
        there = self.objects[path]
        for name in ("uid", "resourceVersion"):
            if patch["metadata"].get(name, there["metadata"][name]) != there["metadata"][name]:
                raise ConflictError(f"another {name}", 409)
        made = self._put(path, kind, merged(there, patch))
        if made["metadata"].get("deletionTimestamp") and not made["metadata"].get("finalizers"):
            del self.objects[path]
            # As a real one answers: what was there last.
            made["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"]
        return made

    def _read(self, request: ApiRequest) -> Any:
        if request.path in self.objects:
            return self.objects[request.path]
        if request.resource is not None and request.path.rpartition("/")[2] == request.resource.plural:
            inside = [each for path, each in self.objects.items() if path.rpartition("/")[0] == request.path]
            return {"metadata": {}, "items": inside}
        raise GoneError("not found", 404)


def held(body: Body) -> Body:
    """Return an object that was deleted, and stays for as long as a finalizer does."""
    return {**body, "metadata": {"deletionTimestamp": CREATED, **body["metadata"]}}


def merged(there: Any, said: Any) -> Any:
    """Return an object after a merge patch."""
    if not isinstance(said, dict) or not isinstance(there, dict):
        return said
    changed = {key: merged(there.get(key), value) for key, value in said.items() if value is not None}
    return {key: value for key, value in there.items() if said.get(key, key) is not None} | changed


def applied(there: Any, said: Any) -> Any:
    """Return an object after a server-side apply: mappings are merged, and so are lists, by the names in them."""
    if isinstance(said, dict) and isinstance(there, dict):
        return there | {key: applied(there.get(key), value) for key, value in said.items()}
    if isinstance(said, list) and isinstance(there, list):
        given = {each["name"]: each for each in said}
        return [applied(each, given.get(each["name"], {})) for each in there]
    return said


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
    live_claims = LiveClaims(cache, woken.append, now)
    saves = TargetedSaves(cache)
    runs, removals = SeriesRuns(woken.append), DataRemovals(woken.append)
    adopting = AdoptingSeries(cache, runs)
    of_checkpoints = (PHASES, live_claims, saves, runs, removals)
    stores = Stores(woken.append)
    named = NamedStores(cache, stores)
    indexes = {CHECKPOINTS.kind: of_checkpoints, SERIES.kind: (runs, adopting), STORES.kind: (stores, named)}
    view = ClusterView(cache, indexes, named, woken.append)
    return CheckpointReconciler(
        ReconcileContext(cluster, view, EventRecorder(cluster, lambda: True), busy, now),
        live_claims=live_claims,
        series=runs,
        removals=removals,
        targets=TargetReader(cluster, Hub(saves, adopting, woken.append)),
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
