"""Signs that a pod is about to be evicted, on its node and on the pod itself: what comes before the eviction."""

from typing import Final

from dcp_operator.api.bodies import condition
from dcp_operator.api.json_types import ReadBody

TAINTS: Final = {
    "ToBeDeletedByClusterAutoscaler": "cluster-autoscaler removes the node",
    "karpenter.sh/disrupted": "Karpenter replaces the node",
    "karpenter.sh/disruption": "Karpenter replaces the node",
    "aws-node-termination-handler/spot-itn": "AWS reclaims the spot instance",
    "aws-node-termination-handler/rebalance-recommendation": "AWS is likely to reclaim the spot instance",
    "aws-node-termination-handler/scheduled-maintenance": "AWS maintains the instance",
    "aws-node-termination-handler/asg-lifecycle-termination": "AWS ends the instance",
    "cloud.google.com/impending-node-termination": "Google Cloud ends the node",
    "node.kubernetes.io/unschedulable": "the node is cordoned",
}
"""What the taints say of a node that are set before its pods are evicted, by their keys, whatever their effect."""


def node_signal(node: ReadBody) -> str:
    """Return why the pods of a node are about to be evicted; empty where nothing says so."""
    spec = node.get("spec") or {}
    for taint in spec.get("taints") or ():
        if said := TAINTS.get(str(taint.get("key"))):
            return said
    return TAINTS["node.kubernetes.io/unschedulable"] if spec.get("unschedulable") is True else ""


def pod_signal(pod: ReadBody) -> str:
    """Return why a pod is about to be evicted; empty where nothing says so."""
    found = condition(pod.get("status") or {}, "DisruptionTarget")
    return f"the pod is a DisruptionTarget ({found.get('reason') or 'for no reason'})" if found is not None else ""
