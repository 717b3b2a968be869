"""Stores as tests make them, and the tables of what one may say."""

from typing import Any, Final

from dcp_operator.api.store.parsing import parse
from dcp_operator.api.store.spec import CheckpointStore

Changes = dict[str, Any]
STORE_UID: Final = "5c0e0f6e-1f0b-4b4e-9d0f-000000000001"

GOOD: Final[dict[str, Changes]] = {
    "a prefix": {},
    "a whole bucket": {"url": "s3://bucket"},
    "a whole bucket and a slash": {"url": "s3://bucket/"},
    "Google Cloud by an account": {"url": "gs://bucket/team", "serviceAccountName": "trainer"},
    "Azure": {"url": "az://container@account/team"},
    "keys and authorities": {"credentialsSecretRef": {"name": "s3"}, "caSecretRef": {"name": "ca"}},
    "an endpoint": {"options": {"endpointUrl": "https://s3.team.svc:9000", "region": "eu-1"}},
    "read only": {"accessMode": "ReadOnly"},
    "the default one": {"default": True},
    "the shortest interval": {"validationInterval": "60s"},
    "the longest interval": {"validationInterval": "168h"},
}
BAD: Final[dict[str, tuple[Changes, str, str]]] = {
    "no URL": ({"url": None}, "spec.url", ""),
    "no protocol": ({"url": "bucket/team"}, "spec.url", "write"),
    "no bucket": ({"url": "s3:///team"}, "spec.url", ""),
    "credentials in the URL": ({"url": "s3://key:hunter2@bucket/team"}, "spec.url", "holds credentials"),
    "a way out": ({"url": "s3://bucket/team/../other"}, "spec.url", "without '..'"),
    "a chain": ({"url": "filecache::s3://bucket/team"}, "spec.url", "chained"),
    "a blank": ({"url": "s3://bucket/my team"}, "spec.url", "plain path"),
    "a path in a pod": ({"url": "file:///mnt/nfs"}, "spec.url", "brings no volume"),
    "an option of another protocol": ({"options": {"storageAccount": "x"}}, "spec.options.storageAccount", ""),
    "an address with credentials": (
        {"options": {"endpointUrl": "http://u:hunter2@s3"}},
        "spec.options.endpointUrl",
        "credentials",
    ),
    "an account by no name": ({"serviceAccountName": "Trainer!"}, "spec.serviceAccountName", ""),
    "another mode": ({"accessMode": "WriteOnly"}, "spec.accessMode", ""),
    "too often": ({"validationInterval": "59s"}, "spec.validationInterval", "from 1m to 168h"),
    "too rarely": ({"validationInterval": "169h"}, "spec.validationInterval", "from 1m to 168h"),
    "no duration": ({"validationInterval": "1 h"}, "spec.validationInterval", ""),
    "not of hours": ({"validationInterval": "1d"}, "spec.validationInterval", ""),
}


def store_manifest(changes: Changes | None = None, *, name: str = "team", **metadata: Any) -> dict[str, Any]:
    """Return a store with some fields of its spec changed; None takes a field out."""
    spec = {"url": "s3://bucket/team", **(changes or {})}
    return {
        "apiVersion": "dcp-operator.io/v1alpha1",
        "kind": "CheckpointStore",
        "metadata": {"name": name, **metadata},
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def store(changes: Changes | None = None, *, name: str = "team", **metadata: Any) -> CheckpointStore:
    """Return the parsed store."""
    return parse(store_manifest(changes, name=name, uid=STORE_UID, namespace="ml", **metadata))
