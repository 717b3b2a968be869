"""The PodDisruptionBudget of a training, and the Job that it hangs on. The same in, the same out."""

from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import (
    API_VERSION,
    BUDGET_LABEL,
    MANAGED_BY,
    MANAGED_BY_LABEL,
    SERIES_KIND,
    budget_name,
    guard_name,
)
from dcp_operator.api.series.spec import Series
from dcp_operator.controllers.disruption.budget import CreateGuard, PutBudget, selecting


def guard_of_budget(series: Series, action: CreateGuard) -> Body:
    """Return a Job that makes no pod, and that ends and goes after its time: what hangs on it goes with it."""
    owner = {
        "apiVersion": API_VERSION,
        "kind": SERIES_KIND,
        "name": series.name,
        "uid": series.uid,
        "controller": True,
    }
    container = {
        "name": "none",
        "image": "none",
        "resources": {"limits": {"cpu": "1m", "memory": "1Mi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": guard_name(series.name, series.uid, action.number),
            "namespace": series.namespace,
            "labels": _labels(series),
            "ownerReferences": [owner],
        },
        "spec": {
            "parallelism": 0,
            "backoffLimit": 0,
            "activeDeadlineSeconds": action.seconds,
            "ttlSecondsAfterFinished": 0,
            "template": {"metadata": {"labels": _labels(series)}, "spec": pod},
        },
    }


def budget_of(series: Series, action: PutBudget) -> Body:
    """Return the budget: no pod of the training that is ready may be evicted.

    Args:
        series: The series.
        action: How many pods there are, and what the budget hangs on.
    """
    guard, target = action.guard, series.spec.template.spec.target
    assert target is not None  # noqa: S101 - an empty selector would be one of all pods
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": guard.name, "uid": guard.uid, "controller": True}
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {
            "name": budget_name(series.name),
            "namespace": series.namespace,
            "labels": _labels(series),
            "ownerReferences": [owner],
        },
        "spec": {
            "minAvailable": action.minimum,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": selecting(target.labels),
        },
    }


def _labels(series: Series) -> dict[str, str]:
    return {MANAGED_BY_LABEL: MANAGED_BY, BUDGET_LABEL: series.name}
