"""The Kubernetes API as this operator uses it: the only module that writes Checkpoints and what belongs to them.

A thin layer over the transport of `kubernetes.aio`: JSON bodies go in and come out as dicts, without the generated
models, which cost memory and time and drop fields that they do not know. Every write is safe to repeat, for an answer
may get lost on its way: creation finds its own earlier object, a status write carries the resourceVersion that it was
decided on, a deletion carries the uid of what was seen, an event's name derives from what it says. What is not watched,
the Services and NetworkPolicies of attempts, is looked at before it is deleted: a name says nothing of whose it is.
"""

import hashlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any, Final, Self

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.config_exception import ConfigException
from kubernetes.aio.config.incluster_config import load_incluster_config
from kubernetes.aio.config.kube_config import load_kube_config

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import JOB_LABEL
from dcp_operator.kube.client import metrics
from dcp_operator.kube.client.api import (
    EVENTS,
    JSON,
    METADATA_LIST,
    METADATA_ONLY,
    PODS,
    ApiError,
    ApiRequest,
    ConflictError,
    GoneError,
    NameTakenError,
    Resource,
    UnavailableError,
    refusal,
)
from dcp_operator.kube.client.ownership import Claimed, Owner, belongs
from dcp_operator.kube.client.shallow_json import read_json

logger = logging.getLogger(__name__)

COMPONENT: Final = "dcp-operator"
LOG_SECONDS: Final = 3.0
LOG_BYTES: Final = 1_048_576
LOG_LINES: Final = 500
"""Rank 0 tells of its progress between what the workload prints."""
CONNECT_SECONDS: Final = 5.0
PAGE: Final = 500
_STRICT: Final = {"fieldValidation": "Strict"}
"""What has a typo in its name is refused. By default it would be dropped, and nobody told."""


@dataclass(frozen=True)
class Listed:
    """What a resync needs to know of an object in the API server."""

    namespace: str
    name: str
    uid: str
    version: str

    @property
    def number(self) -> int:
        """The version, to be compared."""
        return int(self.version)


@dataclass(frozen=True)
class Cluster:
    """One connection pool to the API server.

    Args:
        client: The transport; its configuration holds the address and the credentials, which it refreshes.
        instance: The pod that reports events.
    """

    client: ApiClient
    instance: str = ""

    @classmethod
    async def connect(cls, instance: str = "", connections: int = 64) -> Self:
        """Connect as the pod's service account, or by the kubeconfig outside of a cluster."""
        configuration = await load_configuration()
        configuration.connection_pool_maxsize = connections
        return cls(ApiClient(configuration), instance)

    async def close(self) -> None:
        """Close the connections."""
        await self.client.close()  # type: ignore[no-untyped-call]

    async def create(self, resource: Resource, body: Body, owner: Owner) -> Body:
        """Create an object that belongs to an owner, or find it created already.

        Raises:
            NameTakenError: The name is held by an object of another controller, or of another attempt.
        """
        metadata = body["metadata"]
        try:
            return await self._write(ApiRequest("POST", resource, resource.path(metadata["namespace"]), body, _STRICT))
        except ConflictError:
            existing = await self.get(resource, metadata["namespace"], metadata["name"])
        claimed = Claimed.of(existing)
        if not belongs(claimed, metadata["name"], owner) or claimed.attempt != Claimed.of(body).attempt:
            raise NameTakenError(existing)
        return existing

    async def replace_status(self, resource: Resource, body: Body, status: Mapping[str, Any]) -> Body:
        """Write the status of the very object that was read; return the object as it stands now.

        Raises:
            ConflictError: Somebody wrote the object since; read it again, decide again.
        """
        metadata = body["metadata"]
        update = {
            "apiVersion": resource.api_version,
            "kind": resource.kind,
            "metadata": {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")},
            "spec": body.get("spec", {}),
            "status": dict(status),
        }
        path = resource.path(metadata["namespace"], metadata["name"], "status")
        return await self._write(ApiRequest("PUT", resource, path, update))

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Delete an object and what it owns; one that is gone, or is another by now, is as good as deleted."""
        options: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        options["preconditions"] = {"uid": uid}
        try:
            await self._json(ApiRequest("DELETE", resource, resource.path(namespace, name), options))
        except (GoneError, ConflictError):
            return

    async def delete_owned(self, resource: Resource, namespace: str, name: str, owner: Owner) -> None:
        """Delete what belongs to an owner under this name; what is somebody else's stays.

        Args:
            resource: The kind.
            namespace: Where it is.
            name: What it is called.
            owner: Whose it has to be.
        """
        try:
            found = await self.get(resource, namespace, name)
        except GoneError:
            return
        if belongs(Claimed.of(found), name, owner):
            await self.delete(resource, namespace, name, found["metadata"]["uid"])
        else:
            logger.warning("%s %s/%s is not ours; it stays", resource.kind, namespace, name)

    async def get(self, resource: Resource, namespace: str, name: str) -> Body:
        """Read one object.

        Raises:
            GoneError: There is none.
        """
        body = await self._json(ApiRequest("GET", resource, resource.path(namespace, name)))
        return {"apiVersion": resource.api_version, "kind": resource.kind, **body}

    async def pods_of(self, namespace: str, job: str) -> list[Body]:
        """Read the pods of a Job past the watch."""
        request = ApiRequest("GET", PODS, PODS.path(namespace), query={"labelSelector": f"{JOB_LABEL}={job}"})
        pods: list[Body] = (await self._json(request)).get("items") or []
        return pods

    async def list_metadata(
        self, resource: Resource, namespace: str | None, selector: str = ""
    ) -> AsyncIterator[Listed]:
        """Yield what identifies every object, as the API server's own watch has it.

        Which may be behind by a moment. A list as of now would have it read all objects of the kind from its database,
        those of everybody, to find ours.
        """
        async for item in self.list_bodies(resource, namespace, selector, METADATA_LIST, {"resourceVersion": "0"}):
            metadata = item["metadata"]
            yield Listed(metadata["namespace"], metadata["name"], metadata["uid"], metadata["resourceVersion"])

    async def list_bodies(
        self,
        resource: Resource,
        namespace: str | None,
        selector: str = "",
        accept: str = JSON,
        how: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Body]:
        """Yield every object, page by page, as of one moment: of now, or as `how` has it."""
        query = {"limit": str(PAGE)} | ({"labelSelector": selector} if selector else {})
        first = dict(how or {})
        while True:
            request = ApiRequest("GET", resource, resource.path(namespace), query=query | first, accept=accept)
            page, first = await self._json(request), {}
            for item in page.get("items") or ():
                yield item
            token = page["metadata"].get("continue")
            if not token:
                return
            query = query | {"continue": token}

    async def serves(self, resource: Resource) -> bool:
        """Say whether the API server knows the kind, that is, whether its CRD is installed."""
        try:
            found = await self._json(ApiRequest("GET", None, resource.group_path))
        except GoneError:
            return False
        return any(entry.get("name") == resource.plural for entry in found.get("resources") or ())

    async def log_tail(self, namespace: str, pod: str, container: str, lines: int = LOG_LINES) -> str | None:
        """Return the last lines of a log, or nothing: progress is decoration. None where it may not be read."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(LOG_BYTES)}
        path = PODS.path(namespace, pod, "log")
        try:
            raw = await self._send(ApiRequest("GET", PODS, path, query=query, accept="*/*", seconds=LOG_SECONDS))
        except ApiError as error:
            logger.debug("no log of %s/%s: %s", namespace, pod, error)
            return None if error.status == HTTPStatus.FORBIDDEN else ""
        return raw.decode(errors="replace")

    async def last_event(self, namespace: str, uid: str, reason: str) -> str:
        """Return the message of the latest event of that reason about an object; empty where there is none."""
        query = {"fieldSelector": f"involvedObject.uid={uid},reason={reason}"}
        found = await self._json(ApiRequest("GET", EVENTS, EVENTS.path(namespace), query=query))
        events = sorted(found.get("items") or (), key=lambda each: each.get("lastTimestamp") or "")
        return str(events[-1].get("message") or "") if events else ""

    async def post_event(
        self, resource: Resource, body: Body, *, kind: str, reason: str, message: str, now: str
    ) -> None:
        """Post an event about an object, once: its name derives from what it says.

        Events are best effort: a refusal is logged, and changes nothing.
        """
        metadata = body["metadata"]
        said = "\n".join((metadata["uid"], str(metadata.get("generation", 0)), kind, reason, message))
        name = f"{metadata['name'][:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        involved = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion")}
        event = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {"apiVersion": resource.api_version, "kind": resource.kind, **involved},
            "type": kind,
            "reason": reason,
            "message": message[:1024],
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
            "reportingInstance": self.instance or COMPONENT,
        }
        try:
            await self._json(ApiRequest("POST", EVENTS, EVENTS.path(metadata["namespace"]), event))
        except ConflictError:
            return
        except ApiError as error:
            logger.warning("event %s of %s/%s: %s", reason, metadata["namespace"], metadata["name"], error)

    async def _write(self, request: ApiRequest) -> Body:
        """Send a body; return it with the metadata that it has now. To hear the rest back would tell us nothing new."""
        written = await self._json(replace(request, accept=METADATA_ONLY))
        return {**(request.body or {}), "metadata": written["metadata"]}

    async def _json(self, request: ApiRequest) -> Body:
        answer: Body = read_json(await self._send(request))
        return answer

    async def _send(self, request: ApiRequest) -> bytes:
        """Send one request, once: whoever asked does the whole reconcile again where no answer came."""
        headers = {"Accept": request.accept, "Content-Type": JSON, "User-Agent": COMPONENT}
        await self.client.update_params_for_auth(
            headers, None, ["BearerToken"], request.path, request.method, request.body
        )
        timeout = aiohttp.ClientTimeout(total=request.seconds, sock_connect=CONNECT_SECONDS)
        plural = request.resource.plural if request.resource else "discovery"
        try:
            response = await self.client.rest_client.request(  # type: ignore[no-untyped-call]
                request.method,
                self.client.configuration.host + request.target,
                headers=headers,
                body=request.body,
                _request_timeout=timeout,
            )
            raw: bytes = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            metrics.API_REQUESTS.labels(request.method, plural, "none").inc()
            raise _silence(request, error) from error
        metrics.API_REQUESTS.labels(request.method, plural, str(response.status)).inc()
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise refusal(request, response.status, response.headers, raw)
        return raw


async def load_configuration() -> Configuration:
    """Return the address and the credentials: the service account's in a pod, else the kubeconfig's."""
    configuration = Configuration()
    # As kopf does for the watches. To look for proxies in the environment costs two changes of thread per request.
    configuration.client_session_kwargs = {"trust_env": False}
    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    except ConfigException:
        await load_kube_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
    return configuration


def _silence(request: ApiRequest, error: Exception) -> UnavailableError:
    return UnavailableError(f"{request.method} {request.path}: {error or type(error).__name__}")
