"""An API server in memory, at the seam where the operator's client sends a request: for tests of whole reconciles."""

import json
from collections.abc import Callable
from typing import Any

from dcp_operator.api.json_types import Body
from dcp_operator.api.site import CLUSTER, Site
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, PODS, ApiRequest, ConflictError, GoneError, Resource
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.loop.reconcile import Reconciler
from dcp_operator.kube.view.cache import Cache, ObjectKey
from dcp_operator.kube.view.live_saves import LiveSaves
from dcp_operator.kube.view.progress import ProgressReader
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
        path = resource.path(metadata["namespace"], metadata["name"])
        given = {"uid": f"uid-{metadata['name']}", "creationTimestamp": CREATED, "generation": 1}
        self.seen.append("")
        metadata = {**given, **metadata, "resourceVersion": str(100 + len(self.seen))}
        self.objects[path] = {**body, "kind": resource.kind, "metadata": metadata}
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
            if f"{path}/{body['metadata']['name']}" in self.objects:
                raise ConflictError("exists already", 409)
            made = self.add(request.resource, body)
            self.seen.append(f"POST {request.resource.plural}/{body['metadata']['name']}")
            return json.dumps({"metadata": made["metadata"]}).encode()
        if path not in self.objects:
            raise GoneError("not found", 404)
        there = self.objects[path]
        assert request.resource is not None
        self.seen.append(f"{request.method} {request.resource.plural}/{name}")
        if request.method == "PUT":
            return json.dumps(self.add(request.resource, {**there, "status": body["status"]})).encode()
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


def reconciling(api: FakeApi, site: Site = CLUSTER) -> Reconciler:
    """Return a reconciler that has seen what is there, and whose clock stands."""
    progress, recorder = ProgressReader(api, lambda _: None), EventRecorder(api, lambda: True)
    cache = Cache()
    woken: list[ObjectKey] = []
    live_saves = LiveSaves(site, cache, woken.append, lambda: NOW)
    reconciler = Reconciler(api, cache, live_saves, Builder(image="worker"), progress, recorder, now=lambda: NOW)
    seen(api, reconciler)
    return reconciler


def seen(api: FakeApi, reconciler: Reconciler) -> None:
    """Bring the watches up to date."""
    for resource in (CHECKPOINTS, JOBS, PODS):
        there = {each["metadata"]["uid"]: each for each in api.objects.values() if each["kind"] == resource.kind}
        for namespace, name, uid, _ in list(reconciler.cache.known(resource)):
            if uid not in there:
                reconciler.forget(resource, namespace, name, uid)
        for each in there.values():
            reconciler.ingest(resource, each)


def status(api: FakeApi, key: ObjectKey) -> Body:
    """Return the status of a Checkpoint."""
    found: Body = api.objects[CHECKPOINTS.path(key.namespace, key.name)].get("status", {})
    return found
