"""What keeps the pods of an attempt from running, in words."""

from datetime import timedelta
from typing import Final

from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.worker_container import BENIGN

PODS_DUE: Final = timedelta(seconds=30)
"""How long the Job controller may take to create pods before the status tells of it."""


def is_kept_from_starting(pod: Pod) -> bool:
    """Return whether something keeps the pod from starting that a person would want to know."""
    return bool(pod.unschedulable) or pod.waiting not in BENIGN


def why_pod_waits(pod: Pod) -> str:
    """Return what a pod that does not run waits for."""
    where = f"pod {pod.name or pod.index}" + (f" on node {pod.node}" if pod.node else "")
    if pod.unschedulable:
        return f"{where} can't be scheduled: {pod.unschedulable}"
    detail = f": {pod.waiting_message}" if pod.waiting_message else ""
    what = f": {pod.waiting_container}" if pod.waiting_container else ""
    return f"{where}{what} is {pod.waiting or pod.phase}{detail}"


def why_pods_are_missing(attempt: Attempt) -> str:
    """Return how many pods there are, and why there are no more: a quota, Pod Security, a webhook."""
    why = attempt.uncreated or f"look at the events of Job {attempt.job_name}"
    return f"{len(attempt.pods)} of {attempt.nodes} pods were created; {why}"
