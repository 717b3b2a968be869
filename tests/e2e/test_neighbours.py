"""What one user of a cluster can't do to another through the operator."""

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from cluster.facts import Facts
from e2e.conftest import RESTRICTED, secret
from e2e.kube import Body, Kube, KubectlError, condition, until
from e2e.objects import gpt
from e2e.test_reasons import ONE

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.adversary, pytest.mark.timeout(420)]


def allowed(user: str, rules: list[Body]) -> list[Body]:
    """Return the Role and the RoleBinding that let a user do so much in a namespace."""
    subject = {"kind": "User", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    reference = {"kind": "Role", "name": user, "apiGroup": "rbac.authorization.k8s.io"}
    version, metadata = "rbac.authorization.k8s.io/v1", {"name": user}
    return [
        {"apiVersion": version, "kind": "Role", "metadata": metadata, "rules": rules},
        {
            "apiVersion": version,
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": reference,
            "subjects": [subject],
        },
    ]


def forged(name: str, checkpoint: Body) -> Body:
    """Return a Job that says it is an attempt of an earlier run of a Checkpoint."""
    uid = checkpoint["metadata"]["uid"]
    labels = {"owner-uid": uid, "run-id": "other", "attempt": "1", "job": name}
    owner = {key: checkpoint[key] for key in ("apiVersion", "kind")} | {"name": "mine", "uid": uid, "controller": True}
    container = {"name": "worker", "image": "none"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": name,
            "labels": {f"dcp-operator.io/{key}": value for key, value in labels.items()},
            "ownerReferences": [owner],
        },
        "spec": {"suspend": True, "template": template},
    }


def test_a_forged_job_deletes_nothing(kube: Kube, operator: Kube, facts: Facts) -> None:
    """O S1-1: whoever may create a Job and a Checkpoint may not touch policies, nor make the operator do it."""
    policy: Any = {"podSelector": {}, "policyTypes": ["Ingress"]}
    service: Any = {"clusterIP": "None", "selector": {"app": "x"}, "ports": [{"port": 80}]}
    kube.apply(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": "default-deny"},
            "spec": policy,
        },
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "default-deny"}, "spec": service},
        *allowed(
            "alice",
            [
                {"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get", "create"]},
                {"apiGroups": ["dcp-operator.io"], "resources": ["checkpoints"], "verbs": ["get", "create"]},
            ],
        ),
    )
    alice = ("--as", "alice")
    with pytest.raises(KubectlError, match="no"):
        kube(*alice, "auth", "can-i", "delete", "networkpolicies")
    kube(*alice, "create", "-f", "-", objects=gpt(facts, "mine", f"{kube.namespace}/mine", workers=ONE, suspend=True))
    kube(*alice, "create", "-f", "-", objects=forged("default-deny", kube.get("checkpoint", "mine")))

    def ignored() -> bool:
        log = operator("logs", "deployment/dcp-operator", "--all-pods", "--tail=500")
        return f"{kube.namespace}/mine: Job default-deny is labelled as an attempt, but is none" in log

    until(ignored, bool, "the forged Job being seen", 60)
    # The Checkpoint is looked at once more, with all that is known by now.
    kube("patch", "checkpoint", "mine", "--type=merge", "-p", '{"spec": {"runId": "two"}}')
    kube.until_status("mine", lambda status: status.get("observedGeneration") == 2, 30)
    for kind in ("networkpolicy", "service", "job"):
        assert kube.get(kind, "default-deny")["metadata"].get("deletionTimestamp") is None


@pytest.fixture
def other(admin: Kube, operator: Kube, facts: Facts) -> Iterator[Kube]:
    """kubectl in a second namespace."""
    del operator
    name = f"other-{uuid.uuid4().hex[:8]}"
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    kube = admin.within(name)
    kube.apply(secret(facts))
    yield kube
    admin("delete", "namespace", name, "--wait=false")


def test_a_squatter_holds_up_nobody_elsewhere_and_nobody_once_it_is_gone(kube: Kube, other: Kube, facts: Facts) -> None:
    """O S1-2: a Save that waits for a queue for ever claims its URL in its own namespace, while it is there."""
    path = f"{kube.namespace}/latest"
    squat = gpt(facts, "squat", path)
    squat["metadata"]["labels"] = {"kueue.x-k8s.io/queue-name": "nowhere"}
    kube.apply(squat)
    kube.until_phase("squat", "Queued", seconds=30)
    kube.apply(gpt(facts, "held", path, workers=ONE))
    held = kube.until_status("held", lambda status: status.get("reason") == "UrlInUse", 20)
    assert "Checkpoint squat is saving to the same URL" in condition(held, "Ready")["message"]

    other.apply(gpt(facts, "nightly", path, workers=ONE))
    assert other.until_phase("nightly", "Succeeded", seconds=180)["reason"] == "Saved"
    kube("delete", "checkpoint", "squat")
    refused = kube.until_phase("held", "Conflict", seconds=180)
    assert refused["reason"] == "OverwriteConflict"
    # The other namespace's Save has won it, and the store tells of it: no more of it is said than that.
    said = json.dumps([refused, kube.events("held")])
    assert "a Checkpoint of another namespace" in said
    assert other.namespace not in said
    assert "nightly" not in said
