"""Pods that users shape: names, users and scratch of their own, in a namespace that enforces `restricted`."""

import pytest

from cluster.facts import Facts
from e2e.kube import Kube
from e2e.objects import gpt

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420)]

TWO_PODS = {"numNodes": 2, "numProcPerNode": 1, "device": "cpu"}


@pytest.mark.adversary
def test_a_checkpoint_of_two_nodes_may_begin_with_a_digit(kube: Kube, facts: Facts) -> None:
    kube.apply(gpt(facts, "1000-step", f"{kube.namespace}/digit", workers=TWO_PODS))
    status = kube.until_phase("1000-step", "Succeeded", seconds=180)
    assert (status["reason"], status["ranks"]) == ("Saved", "2 (2x1)")
    assert status["jobRef"]["name"].startswith("dcp-1000-step-")


@pytest.mark.adversary
def test_a_user_and_scratch_of_ones_own(kube: Kube, facts: Facts) -> None:
    shm = {"name": "dcp-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "256Mi"}}
    spec = {"securityContext": {"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 1234}, "volumes": [shm]}
    workers = {"numProcPerNode": 1, "device": "cpu", "podTemplate": {"spec": spec}}
    kube.apply(gpt(facts, "own", f"{kube.namespace}/own", workers=workers))
    kube.until_phase("own", "Running", "Succeeded", seconds=120)
    (pod,) = kube.every("pod", "dcp-operator.io/checkpoint=own")
    assert pod["spec"]["securityContext"]["runAsUser"] == 1234
    assert shm in pod["spec"]["volumes"]
    assert kube.until_phase("own", "Succeeded", seconds=120)["reason"] == "Saved"
