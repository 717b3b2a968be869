"""Objects read from the API server over connections that stay open.

A test that waits looks five times a second. A kubectl for each look would cost a tenth of a second of a processor,
which the pods that the test waits for need themselves.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from kubernetes.config import new_client_from_config

_RESOURCES: Final = {
    # As kubectl is asked for it -> the path of its API, its plural.
    "checkpoint": ("apis/dcp-operator.io/v1alpha1", "checkpoints"),
    "checkpointseries": ("apis/dcp-operator.io/v1alpha1", "checkpointseries"),
    "checkpointstore": ("apis/dcp-operator.io/v1alpha1", "checkpointstores"),
    "configmap": ("api/v1", "configmaps"),
    "crd": ("apis/apiextensions.k8s.io/v1", "customresourcedefinitions"),
    "events": ("api/v1", "events"),
    "job": ("apis/batch/v1", "jobs"),
    "lease": ("apis/coordination.k8s.io/v1", "leases"),
    "networkpolicy": ("apis/networking.k8s.io/v1", "networkpolicies"),
    "pod": ("api/v1", "pods"),
    "resourcequota": ("api/v1", "resourcequotas"),
    "service": ("api/v1", "services"),
    "serviceaccount": ("api/v1", "serviceaccounts"),
    "validatingwebhookconfiguration": ("apis/admissionregistration.k8s.io/v1", "validatingwebhookconfigurations"),
}
_SECONDS: Final = 30


class ReadError(Exception):
    """The API server did not answer with an object."""

    def __init__(self, path: str, code: int, answer: str) -> None:
        super().__init__(f"GET {path}: {code} {answer}")


def read(kubeconfig: Path, namespace: str, kind: str, name: str = "", **query: str) -> Any:
    """Return an object, or the list of a kind where no name is given."""
    api, plural = _RESOURCES[kind]
    space = f"/namespaces/{namespace}" if namespace else ""
    path = "/".join(part for part in (f"/{api}{space}/{plural}", name) if part)
    client = _client(kubeconfig)
    headers: dict[str, str] = {"Accept": "application/json"}
    client.update_params_for_auth(headers, [], ["BearerToken"], path, "GET", None)
    asked = urlencode({key: value for key, value in query.items() if value})
    url = f"{client.configuration.host}{path}?{asked}"
    answer = client.call_api("GET", url, header_params=headers, _request_timeout=_SECONDS)
    text = answer.read().decode()
    if answer.status >= 400:
        raise ReadError(path, answer.status, text)
    return json.loads(text)


@cache
def _client(kubeconfig: Path) -> Any:
    return new_client_from_config(str(kubeconfig))  # type: ignore[no-untyped-call]
