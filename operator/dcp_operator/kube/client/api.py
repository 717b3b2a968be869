"""The Kubernetes API's words, without a connection: resources and their paths, requests, refusals.

ApiError
├── UnavailableError   no answer, or one that asks to come back: do the whole reconcile again
├── ConflictError      the object is another than the one that was read: decide again on the newer one
├── GoneError          no such object, or its namespace is being deleted: nothing is left to do
├── NameTakenError     an object of that name belongs to somebody else: a person has to act
└── RefusedError       the object itself is refused (invalid, forbidden, over quota): a person has to act
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import quote, urlencode

from dcp_operator.api.json_types import Body

REQUEST_SECONDS: Final = 15.0
LONGEST_WAIT: Final = 300.0
"""Seconds by which an answer may put off the next try, at most. A wrong clock must not put it off for years."""
JSON: Final = "application/json"
MERGE_PATCH: Final = "application/merge-patch+json"
APPLY: Final = "application/apply-patch+yaml"
"""Server-side apply: JSON is YAML."""
METADATA_ONLY: Final = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
METADATA_LIST: Final = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True)
class Resource:
    """Where a kind lives in the API."""

    api_version: str
    kind: str
    plural: str

    @property
    def group_path(self) -> str:
        """The URL path of the kind's group and version."""
        return ("/apis/" if "/" in self.api_version else "/api/") + self.api_version

    def key(self, namespace: str, name: str) -> "ObjectKey":
        """Return the key of an object of the kind."""
        return ObjectKey(namespace, name, self.kind)

    def path(self, namespace: str | None, name: str = "", subresource: str = "") -> str:
        """Return the URL path of an object, or of the collection where no name is given."""
        where = ["namespaces", quote(namespace, safe="")] if namespace else []
        parts = [self.group_path, *where, self.plural, quote(name, safe=""), subresource]
        return "/".join(part for part in parts if part)


class ObjectKey(NamedTuple):
    """Which object: what the work queue holds."""

    namespace: str
    name: str
    kind: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


CHECKPOINTS: Final = Resource("dcp-operator.io/v1alpha1", "Checkpoint", "checkpoints")
SERIES: Final = Resource("dcp-operator.io/v1alpha1", "CheckpointSeries", "checkpointseries")
STORES: Final = Resource("dcp-operator.io/v1alpha1", "CheckpointStore", "checkpointstores")
JOBS: Final = Resource("batch/v1", "Job", "jobs")
PODS: Final = Resource("v1", "Pod", "pods")
SERVICES: Final = Resource("v1", "Service", "services")
NETWORK_POLICIES: Final = Resource("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
EVENTS: Final = Resource("v1", "Event", "events")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")
JOB_SETS: Final = Resource("jobset.x-k8s.io/v1alpha2", "JobSet", "jobsets")
TRAIN_JOBS: Final = Resource("trainer.kubeflow.org/v1alpha1", "TrainJob", "trainjobs")
PYTORCH_JOBS: Final = Resource("kubeflow.org/v1", "PyTorchJob", "pytorchjobs")
NAMESPACES: Final = Resource("v1", "Namespace", "namespaces")
WEBHOOKS: Final = Resource(
    "admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration", "validatingwebhookconfigurations"
)
NODES: Final = Resource("v1", "Node", "nodes")
BUDGETS: Final = Resource("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
TOKEN_REVIEWS: Final = Resource("authentication.k8s.io/v1", "TokenReview", "tokenreviews")


@dataclass(frozen=True)
class ApiRequest:
    """One call, ready to be sent."""

    method: str
    resource: Resource | None
    path: str
    body: Body | None = None
    query: Mapping[str, str] = field(default_factory=dict)
    accept: str = JSON
    content: str = JSON
    seconds: float = REQUEST_SECONDS

    @property
    def target(self) -> str:
        """The path with the query."""
        return f"{self.path}?{urlencode(self.query)}" if self.query else self.path


class ApiError(Exception):
    """A request came to nothing; the subclasses say what the caller does next.

    Args:
        message: The API server's own words where it gave any.
        status: The HTTP code; 0 where no answer came.
        retry_after: Seconds that the API server asked to wait.
    """

    def __init__(self, message: str, status: int = 0, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


class UnavailableError(ApiError):
    """The API server did not answer, or can't now."""


class ConflictError(ApiError):
    """The object is another than the one that was read, or exists already."""


class GoneError(ApiError):
    """The object, or the namespace it would stand in, does not exist any more."""


class RefusedError(ApiError):
    """The API server will not take this object as it is."""


class NameTakenError(ApiError):
    """The name of an object that is needed is held by an object of somebody else."""

    def __init__(self, existing: Body) -> None:
        metadata = existing["metadata"]
        owners = metadata.get("ownerReferences") or ()
        owner = ", ".join(f"{owner['kind']} {owner['name']}" for owner in owners) or "nobody (it has no owner)"
        super().__init__(
            f"{existing.get('kind', 'object')} {metadata['namespace']}/{metadata['name']} exists already and belongs "
            f"to {owner}: delete it",
            HTTPStatus.CONFLICT,
        )


def retry_seconds(said: object) -> float | None:
    """Return how long to wait: RFC 9110 has it in seconds or as a date, and proxies say either; None if unclear."""
    text = str(said or "").strip()
    if text.isdecimal():
        return min(float(text), LONGEST_WAIT)
    try:
        at = parsedate_to_datetime(text)
    except ValueError:
        return None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return min(max(0.0, (at - datetime.now(UTC)).total_seconds()), LONGEST_WAIT)


def refusal(request: ApiRequest, status: int, headers: Mapping[str, str], raw: bytes) -> ApiError:
    """Return what a response with an error code means to the caller."""
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = {}
    if not isinstance(answer, dict):
        answer = {}
    details = answer.get("details") or {}
    message = answer.get("message") or f"{request.method} {request.path}: HTTP {status}"
    causes = {cause.get("reason") for cause in details.get("causes") or ()}
    if status == HTTPStatus.NOT_FOUND or "NamespaceTerminating" in causes:
        return GoneError(message, status)
    if status == HTTPStatus.CONFLICT:
        return ConflictError(message, status)
    # 401 is a token that expired while the request was on its way: the next one carries a fresh one.
    later = {HTTPStatus.UNAUTHORIZED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
    if status in later or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        said = headers.get("Retry-After") or details.get("retryAfterSeconds")
        return UnavailableError(message, status, retry_seconds(said))
    return RefusedError(message, status)
