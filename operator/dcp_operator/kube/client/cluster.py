"""What the operator writes: the only module that writes Checkpoints and what belongs to them to the API server.

Every write is safe to repeat, for an answer may get lost on its way. A creation finds its own earlier object. A status
write carries the resourceVersion that it was decided on. A deletion carries the uid of the object that was seen. An
event's name derives from what the event says. Services and NetworkPolicies of attempts are not watched, and a name does
not tell whose they are: each is read before it is deleted.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from dcp_operator.api.json_types import Body
from dcp_operator.kube.client.api import (
    EVENTS,
    METADATA_ONLY,
    ApiError,
    ApiRequest,
    ConflictError,
    GoneError,
    NameTakenError,
    Resource,
)
from dcp_operator.kube.client.ownership import Claimed, Owner, belongs
from dcp_operator.kube.client.reads import Reads
from dcp_operator.kube.client.transport import COMPONENT

logger = logging.getLogger(__name__)

_STRICT: Final = {"fieldValidation": "Strict"}
"""What has a typo in its name is refused. By default it would be dropped, and nobody told."""


@dataclass(frozen=True)
class Cluster(Reads):
    """A connection pool by which objects are read and written."""

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
