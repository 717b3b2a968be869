"""What the operator writes: the only module that writes Checkpoints and what belongs to them to the API server.

Every write is safe to repeat, for an answer may get lost on its way. A creation finds its own earlier object. A status
write carries the resourceVersion that it was decided on. A deletion carries the uid of the object that was seen. An
event's name derives from what the event says. Services and NetworkPolicies of attempts are not watched, and a name does
not tell whose they are: each is read before it is deleted.
"""

import contextlib
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from dcp_operator.api.checkpoint.spec import DeletionPolicy
from dcp_operator.api.json_types import Body
from dcp_operator.kube.client.api import (
    APPLY,
    EVENTS,
    MERGE_PATCH,
    METADATA_ONLY,
    TOKEN_REVIEWS,
    WEBHOOKS,
    ApiError,
    ApiRequest,
    ConflictError,
    GoneError,
    NameTakenError,
    Resource,
)
from dcp_operator.kube.client.ownership import Claimed, Owner, belongs, controlled
from dcp_operator.kube.client.reads import Reads
from dcp_operator.kube.client.transport import COMPONENT

logger = logging.getLogger(__name__)

_OF_THE_CLUSTER: Final = "default"
"""The namespace of events about objects that are in none."""
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

    async def create_served(self, resource: Resource, body: Body, owner: Owner) -> Body:
        """Create an object of a kind that is served, or find it created already; return it as the API server has it.

        Its name says what it is for, so that one of that name and that controller is the one that is wanted.

        Raises:
            NameTakenError: The name is held by an object that the owner does not control.
        """
        metadata = body["metadata"]
        try:
            return await self._json(ApiRequest("POST", resource, resource.path(metadata["namespace"]), body, _STRICT))
        except ConflictError:
            existing = await self.get(resource, metadata["namespace"], metadata["name"])
        if not controlled(existing, owner):
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

    async def review_token(self, token: str, audience: str) -> Body:
        """Return what the API server knows of a token that is for that audience: the status of a TokenReview."""
        body: Body = {"apiVersion": TOKEN_REVIEWS.api_version, "kind": TOKEN_REVIEWS.kind}
        body["spec"] = {"token": token, "audiences": [audience]}
        review = await self._json(ApiRequest("POST", TOKEN_REVIEWS, TOKEN_REVIEWS.path(None), body))
        status: Body = review.get("status") or {}
        return status

    async def put(self, resource: Resource, body: Body, version: str | None) -> None:
        """Create an object of the operator's own, or replace the one that was read in that version.

        Raises:
            ConflictError: Somebody was faster.
        """
        namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
        if version is None:
            await self._write(ApiRequest("POST", resource, resource.path(namespace), body))
            return
        update = {**body, "metadata": {**body["metadata"], "resourceVersion": version}}
        await self._write(ApiRequest("PUT", resource, resource.path(namespace, name), update))

    async def annotate(self, resource: Resource, body: Body, annotations: Mapping[str, str]) -> None:
        """Set annotations of the very object that was read, which is somebody else's; all else of it stays.

        Raises:
            ConflictError: Somebody wrote the object since.
        """
        metadata = body["metadata"]
        patch: Body = {"metadata": {key: metadata[key] for key in ("uid", "resourceVersion")}}
        patch["metadata"]["annotations"] = dict(annotations)
        path = resource.path(metadata["namespace"], metadata["name"])
        await self._write(ApiRequest("PATCH", resource, path, patch, content=MERGE_PATCH))

    async def set_finalizers(self, resource: Resource, body: Body, finalizers: Sequence[str]) -> Body:
        """Write the finalizers of the very object that was read; return the object as it stands now.

        Raises:
            ConflictError: Somebody wrote the object since.
        """
        metadata = body["metadata"]
        patch: Body = {"metadata": {key: metadata[key] for key in ("uid", "resourceVersion")}}
        patch["metadata"]["finalizers"] = list(finalizers)
        path = resource.path(metadata["namespace"], metadata["name"])
        request = ApiRequest("PATCH", resource, path, patch, content=MERGE_PATCH, accept=METADATA_ONLY)
        return {**body, "metadata": (await self._json(request))["metadata"]}

    async def retain_data(self, resource: Resource, namespace: str, name: str, uid: str) -> None:
        """Have an object go without its data when it is deleted; one that is gone, or is another by now, is left."""
        patch: Body = {"metadata": {"uid": uid}, "spec": {"deletionPolicy": DeletionPolicy.RETAIN.value}}
        try:
            await self._write(ApiRequest("PATCH", resource, resource.path(namespace, name), patch, content=MERGE_PATCH))
        except (GoneError, ConflictError):
            return

    async def apply_ca_bundle(self, configuration: str, webhook: str, bundle: str) -> None:
        """Have the API server trust certificates (PEM in base64) where it calls a webhook, and change nothing else.

        By a server-side apply: whoever applies the manifest, without that field, leaves the field alone.
        """
        body: Body = {"apiVersion": WEBHOOKS.api_version, "kind": WEBHOOKS.kind, "metadata": {"name": configuration}}
        body["webhooks"] = [{"name": webhook, "clientConfig": {"caBundle": bundle}}]
        path = WEBHOOKS.path(None, configuration)
        # Whoever else has written the field: what stands there is of no use but for these certificates.
        query = {"fieldManager": COMPONENT, "force": "true"}
        await self._write(ApiRequest("PATCH", WEBHOOKS, path, body, query, content=APPLY))

    async def delete(self, resource: Resource, namespace: str, name: str, uid: str) -> Body | None:
        """Delete an object and what it owns; one that is gone, or is another by now, is as good as deleted.

        Return what is there under the name now: the object itself while somebody's finalizer holds it, or another one.
        """
        options: Body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}
        options["preconditions"] = {"uid": uid}
        try:
            answer = await self._json(ApiRequest("DELETE", resource, resource.path(namespace, name), options))
            return answer if answer.get("kind") == resource.kind else None
        except ConflictError:
            with contextlib.suppress(GoneError):
                return await self.get(resource, namespace, name)
        except GoneError:
            pass
        return None

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
        involved = {key: metadata[key] for key in ("name", "namespace", "uid", "resourceVersion") if key in metadata}
        if "namespace" not in metadata:
            # One of the cluster's own objects is spoken of once: whatever is said of it, and whoever says it.
            said = "\n".join((metadata["uid"], kind, reason))
        name = f"{metadata['name'][:200]}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"
        namespace = metadata.get("namespace", _OF_THE_CLUSTER)
        event = {
            "apiVersion": EVENTS.api_version,
            "kind": EVENTS.kind,
            "metadata": {"name": name, "namespace": namespace},
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
            await self._json(ApiRequest("POST", EVENTS, EVENTS.path(namespace), event))
        except ConflictError:
            return
        except ApiError as error:
            logger.warning("event %s of %s/%s: %s", reason, namespace, metadata["name"], error)

    async def _write(self, request: ApiRequest) -> Body:
        """Send a body; return it with the metadata that it has now. To hear the rest back would tell us nothing new."""
        written = await self._json(replace(request, accept=METADATA_ONLY))
        return {**(request.body or {}), "metadata": written["metadata"]}
