"""Stores as an operator sees them that has validated them, and objects that name one."""

from typing import Any

from dcp_operator.api.json_types import Body
from dcp_operator.kube.client.api import STORES
from fake_api import FakeApi
from scenes import manifest, stamp

IN_STORE = {"store": {"name": "bucket"}, "path": "run/step-1000"}
PREFIX = "s3://one/team"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a URL, too": ({**IN_STORE, "url": "s3://a/b"}, "spec.storage.url: stands in the store; drop it, or drop store"),
    "options": ({**IN_STORE, "options": {"region": "eu"}}, "spec.storage.options: stands in the store;"),
    "keys": (
        {**IN_STORE, "credentialsSecretRef": {"name": "a"}},
        "spec.storage.credentialsSecretRef: stands in the store;",
    ),
    "authorities": ({**IN_STORE, "caSecretRef": {"name": "a"}}, "spec.storage.caSecretRef: stands in the store;"),
    "an account": ({**IN_STORE, "serviceAccountName": "a"}, "spec.storage.serviceAccountName: stands in the store;"),
    "a series": ({**IN_STORE, "latestOf": {"series": "a"}}, "spec.storage.latestOf: stands in the store;"),
    "no path": ({"store": {"name": "a"}}, "spec.storage.path: is missing; write where below the store, such as"),
    "nothing": ({"store": {}}, "spec.storage.path: is missing;"),
    "a way out": ({"store": {"name": "a"}, "path": "../b"}, "spec.storage.path: is no path below a store; write names"),
    "a way out within": ({"store": {"name": "a"}, "path": "a/../../b"}, "spec.storage.path: is no path below a store;"),
    "an absolute path": ({"path": "/b"}, "spec.storage.path: is no path below a store;"),
    "an escape": ({"path": "%2e%2e/b"}, "spec.storage.path: is no path below a store;"),
    "another scheme": ({"path": "s3://b/c"}, "spec.storage.path: is no path below a store;"),
    "a line more": ({"path": "a\n"}, "spec.storage.path: is no path below a store;"),
}
"""What a Verify may not say of a store; the API server refuses each row as well."""


def available(status: str = "True", message: str = "Validated.", *, generation: int = 1) -> Body:
    """Return the status of a store."""
    condition: Body = {"type": "Available", "status": status, "reason": "Any", "message": message}
    condition |= {"lastTransitionTime": stamp(0), "observedGeneration": generation}
    return {"observedGeneration": generation, "conditions": [condition]}


def put_store(
    api: FakeApi, name: str = "bucket", *, status: Body | None = None, generation: int = 1, **spec: Any
) -> None:
    """Have a store stand there, in the place of one of the name."""
    metadata = {"name": name, "namespace": "team", "uid": f"uid-store-{name}", "generation": generation}
    body = {"metadata": metadata, "spec": {"url": PREFIX, **spec}}
    api.add(STORES, body | {"status": available(generation=generation) if status is None else status})


def drop_store(api: FakeApi, name: str = "bucket") -> None:
    """Have a store be gone."""
    del api.objects[STORES.path("team", name)]


def in_store(changes: dict[str, Any] | None = None) -> Body:
    """Return the manifest of a Checkpoint that names a store."""
    return manifest({"spec.storage": IN_STORE, **(changes or {})})
