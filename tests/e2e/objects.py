"""Checkpoints for the tests: the smallest GPT, on CPUs, in the cluster's own store."""

from typing import Any

from cluster.facts import Facts
from e2e.kube import Body


def gpt(facts: Facts, name: str, path: str, **spec: Any) -> Body:
    """Return a Save of a small GPT by two ranks; `spec` replaces whole sections."""
    sections: Body = {
        "operation": "Save",
        "storage": storage(facts, path),
        "workload": {"entrypoint": "gpt:Workload", "args": {"size": "1M"}},
        "workers": {"numProcPerNode": 2, "device": "cpu"},
        "retries": 0,
    }
    return checkpoint(name, sections | spec)


def checkpoint(name: str, spec: Body, labels: dict[str, str] | None = None) -> Body:
    """Return a Checkpoint."""
    metadata: Body = {"name": name} | ({"labels": labels} if labels else {})
    return {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "Checkpoint", "metadata": metadata, "spec": spec}


def storage(facts: Facts, path: str, **more: Any) -> Body:
    """Return where a checkpoint of the test's own goes."""
    options = {"endpointUrl": facts.s3.endpoint, "region": facts.s3.region}
    return {
        "url": f"s3://{facts.s3.bucket}/{path}",
        "options": options,
        "credentialsSecretRef": {"name": "s3"},
        **more,
    }
