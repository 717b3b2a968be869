"""The question that the API server asks of a webhook about an eviction, and the answer: admission.k8s.io/v1."""

import json
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from pydantic import ConfigDict, Field, ValidationError

from dcp_contract.message import Wire, first_problem
from dcp_operator.kube.client.api import PODS

EVICTION_PATH: Final = "/v1/evictions"
EVICTION_CONFIGURATION: Final = "dcp-operator-evictions"
"""Name of the ValidatingWebhookConfiguration."""
EVICTION_WEBHOOK: Final = "evictions.dcp-operator.io"
"""Name of the webhook in it."""
_API_VERSION: Final = "admission.k8s.io/v1"
_KIND: Final = "AdmissionReview"
_DRY: Final = "All"
_NAME: Final = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
"""What else somebody sends would stand in the log."""


class _Said(Wire):
    model_config = ConfigDict(extra="ignore")


class _Resource(_Said):
    group: str = ""
    resource: str = ""


class _Options(_Said):
    dry_run: list[str] | None = None


class _Eviction(_Said):
    delete_options: _Options | None = None


class _Request(_Said):
    uid: str = Field(min_length=1, max_length=128)
    namespace: str = Field(min_length=1, max_length=63, pattern=_NAME)
    name: str = Field(min_length=1, max_length=253, pattern=_NAME)
    resource: _Resource
    sub_resource: str = ""
    operation: str = ""
    dry_run: bool | None = None
    object: _Eviction | None = None


class _Review(_Said):
    api_version: str
    kind: str
    request: _Request


class EvictionReview(NamedTuple):
    """What is asked: may this pod be evicted?"""

    uid: str
    """Of the question; the answer repeats it."""
    namespace: str
    pod: str
    dry_run: bool
    """Nothing is to happen by it."""

    def __str__(self) -> str:
        return f"pod {self.namespace}/{self.pod}"


def read_review(raw: bytes) -> EvictionReview:
    """Return what an AdmissionReview asks.

    Raises:
        ValueError: In one line, why it is none of an eviction.
    """
    try:
        review = _Review.model_validate_json(raw)
    except ValidationError as error:
        raise ValueError(first_problem(error)[:500]) from error
    asked = review.request
    if (review.api_version, review.kind) != (_API_VERSION, _KIND):
        raise ValueError(f"is no {_KIND} of {_API_VERSION}")
    if (asked.resource.group, asked.resource.resource, asked.sub_resource) != ("", PODS.plural, "eviction"):
        raise ValueError("is about no eviction of a pod")
    options = asked.object.delete_options if asked.object is not None else None
    dry = bool(asked.dry_run) or _DRY in (options.dry_run or () if options is not None else ())
    return EvictionReview(asked.uid, asked.namespace, asked.name, dry)


def let_through(uid: str, warning: str = "") -> bytes:
    """Return the answer that the pod may be evicted; kubectl shows the warning."""
    return _answer({"uid": uid, "allowed": True} | ({"warnings": [warning]} if warning else {}))


def held(uid: str, message: str) -> bytes:
    """Return the answer that the eviction is to come again: as where a PodDisruptionBudget forbids it.

    Without a time to wait: kubectl would wait that long without a word.
    """
    status = {
        "status": "Failure",
        "code": HTTPStatus.TOO_MANY_REQUESTS.value,
        "reason": "TooManyRequests",
        "message": message,
    }
    return _answer({"uid": uid, "allowed": False, "status": status})


def _answer(response: dict[str, Any]) -> bytes:
    return json.dumps({"apiVersion": _API_VERSION, "kind": _KIND, "response": response}).encode()
