"""One attempt of very many pods, as the watches deliver it to the operator's cache."""

from typing import Any

from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.json_types import Body
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, PODS
from dcp_operator.kube.view.cache import Cache
from dcp_operator.objects.job import Builder
from pod_bodies import ended, runs
from scenes import UID, at, checkpoint, manifest, saved, stamp

KEY = CHECKPOINTS.key("team", "save-1000")
RANKS = 8


def failing(index: int) -> Report:
    """Return the Report of a node all of whose ranks failed, as long as a Report gets."""
    failures = [
        RankFailure(rank=index * RANKS + rank, reason=Reason.RANK_FAILED, time=1.0 + rank, message="boom " * 20)
        for rank in range(RANKS)
    ]
    return Report(node=index, failures=failures, failed_rank_count=RANKS)


STATES: dict[str, Any] = {
    "running": lambda _: ("Running", runs()),
    "saved": lambda index: ("Succeeded", ended(Report(node=index, result=Reason.SAVED) if index else saved())),
    "failed": lambda index: ("Failed", ended(failing(index))),
}


def wide(nodes: int) -> Checkpoint:
    return checkpoint({"spec.workers": {"numNodes": nodes, "numProcPerNode": RANKS}})


def job_body(of: Checkpoint) -> Body:
    name = of.job_name(1)
    *_, made = Builder(image="w").objects(of, CreateAttempt(job_name=name, attempt=1, task=of.task(1)))
    more = {"uid": "uid-job", "resourceVersion": "10", "creationTimestamp": stamp(0)}
    return made | {"metadata": made["metadata"] | more, "status": {"startTime": stamp(0)}}


def pod_body(job: Body, index: int, version: int, phase: str, worker: Body) -> Body:
    name = job["metadata"]["name"]
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": "uid-job", "controller": True}
    labels = job["spec"]["template"]["metadata"]["labels"] | {"batch.kubernetes.io/job-completion-index": str(index)}
    return {
        "metadata": {
            "name": f"{name}-{index}-abcde",
            "namespace": KEY.namespace,
            "uid": f"uid-{index}",
            "resourceVersion": str(version),
            "creationTimestamp": stamp(0),
            "labels": labels,
            "ownerReferences": [owner],
        },
        "spec": {"nodeName": f"node-{index}"},
        "status": {"phase": phase, "containerStatuses": [{"name": "worker", "state": worker}]},
    }


def filled(nodes: int, state: str) -> tuple[Cache, Checkpoint, Body]:
    """Return a cache that has heard of every pod in that state, the Checkpoint, and its Job."""
    of, cache = wide(nodes), Cache(now=lambda: at(30))
    body = manifest({"spec.workers": {"numNodes": nodes}})
    cache.put(CHECKPOINTS, body | {"metadata": body["metadata"] | {"resourceVersion": "9"}})
    job = job_body(of)
    cache.put(JOBS, job)
    for index in range(nodes):
        phase, worker = STATES[state](index)
        cache.put(PODS, pod_body(job, index, 100 + index, phase, worker))
    assert cache.most_owned(KEY) == nodes
    assert UID in str(job["metadata"]["ownerReferences"])
    return cache, of, job
