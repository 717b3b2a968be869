"""Attempts that wait for a node or a queue, or lose a pod."""

import pytest

from cluster.facts import Facts
from e2e.kube import Body, Kube, condition
from e2e.objects import gpt
from e2e.test_reasons import MOUNTED, ONE, failing, workloads

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420)]


def test_unschedulable_is_shown_while_it_waits(kube: Kube, facts: Facts) -> None:
    nowhere = {**ONE, "podTemplate": {"spec": {"nodeSelector": {"no": "where"}}}}
    kube.apply(gpt(facts, "waits", f"{kube.namespace}/waits", workers=nowhere))
    status = kube.until_status("waits", lambda seen: seen.get("reason") == "Unschedulable", 60)
    assert status["phase"] == "Starting"
    assert "didn't match Pod's node affinity/selector" in condition(status, "Ready")["message"]
    assert condition(status, "Reconciling")["status"] == "True"
    kube.heard("waits", "Unschedulable")


@pytest.mark.slow("the pod that is left has a minute to report")
def test_a_pod_that_is_deleted_is_a_lost_worker(kube: Kube, facts: Facts) -> None:
    kube.apply(workloads())
    workers = {"numNodes": 2, "device": "cpu", "podTemplate": MOUNTED}
    kube.apply(gpt(facts, "lost", f"{kube.namespace}/lost", **failing("Slow", 1000), workers=workers))
    kube.until_phase("lost", "Running", seconds=60)
    victim = kube.every("pod", "batch.kubernetes.io/job-completion-index=1")[0]["metadata"]["name"]
    kube("delete", "pod", victim, "--grace-period=0", "--force")
    status = kube.until_phase("lost", "Failed", seconds=150)
    assert status["reason"] == "WorkerLost"
    kube.heard("lost", "WorkerLost")


def test_an_evicted_pod_costs_no_attempt(kube: Kube, facts: Facts) -> None:
    kube.apply(workloads())
    workers = {**ONE, "podTemplate": MOUNTED}
    kube.apply(gpt(facts, "moved", f"{kube.namespace}/moved", **failing("Slow", 8), workers=workers))
    kube.until_phase("moved", "Running", seconds=60)
    (pod,) = kube.every("pod", "dcp-operator.io/checkpoint=moved")
    name = pod["metadata"]["name"]
    eviction: Body = {"apiVersion": "policy/v1", "kind": "Eviction"}
    eviction["metadata"] = {"name": name, "namespace": kube.namespace}
    kube("create", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods/{name}/eviction", "-f", "-", objects=eviction)
    status = kube.until_phase("moved", "Succeeded", seconds=180)
    assert (status["reason"], status["attempts"], status["retries"]["uncounted"]) == ("Saved", 2, 1)
    assert status["retries"].get("failed", 0) == 0


def test_queued_until_the_queue_admits_it(kube: Kube, facts: Facts) -> None:
    queued = gpt(facts, "queued", f"{kube.namespace}/queued", workers=ONE)
    queued["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "team"}
    kube.apply(queued)
    status = kube.until_phase("queued", "Queued", seconds=30)
    job = kube.get("job", status["jobRef"]["name"])
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    assert job["spec"]["suspend"] is True
    assert [each["reason"] for each in kube.heard("queued", "Queued")] == ["Queued"]
    # What Kueue does when it admits a workload.
    kube("patch", "job", job["metadata"]["name"], "--type=merge", "-p", '{"spec": {"suspend": false}}')
    assert kube.until_phase("queued", "Succeeded", "Failed", seconds=90)["reason"] == "Saved"
