"""A Checkpoint's life beside its main job: stopped, resumed, run again, deleted; and who may see what."""

import json
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from cluster.facts import Facts
from cluster.places import TREE, run_dir
from e2e.conftest import RESTRICTED, kustomization, secret
from e2e.kube import Body, Kube, KubectlError, condition, rolled_out, until
from e2e.objects import checkpoint, gpt, storage
from e2e.test_reasons import MOUNTED, ONE, failing, workloads

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420)]

KINDS = ("job", "pod", "service", "networkpolicy")


def slow(facts: Facts, name: str, space: str) -> Body:
    """Return a Save that runs for as long as it is let."""
    workers = {"numNodes": 2, "device": "cpu", "podTemplate": MOUNTED}
    return gpt(facts, name, f"{space}/{name}", **failing("Slow", 10_000), workers=workers)


def left(kube: Kube, name: str) -> list[str]:
    """Return what belongs to a Checkpoint and is still there."""
    return [
        f"{kind}/{each['metadata']['name']}"
        for kind in KINDS
        for each in kube.every(kind, f"dcp-operator.io/checkpoint={name}")
    ]


def test_suspended_resumed_run_again_deleted_while_running(kube: Kube, facts: Facts) -> None:
    kube.apply(workloads(), slow(facts, "long", kube.namespace))
    kube.until_phase("long", "Running", seconds=120)
    assert len(left(kube, "long")) == 5
    progress = kube.until_status("long", lambda status: status.get("progress"), 60)["progress"]
    assert progress["stage"]

    kube("patch", "checkpoint", "long", "--type=merge", "-p", '{"spec": {"suspend": true}}')
    status = kube.until_phase("long", "Suspended", seconds=30)
    assert condition(status, "Suspended")["status"] == "True"
    until(lambda: left(kube, "long"), lambda found: not found, "the suspended attempt's end", 90)

    kube("patch", "checkpoint", "long", "--type=merge", "-p", '{"spec": {"suspend": false}}')
    status = kube.until_phase("long", "Running", seconds=90)
    assert status["attempts"] == 2
    assert status["retries"] == {"lastEnded": 1, "uncounted": 1}

    old = status["jobRef"]["name"]
    kube("patch", "checkpoint", "long", "--type=merge", "-p", '{"spec": {"runId": "two"}}')
    kube.until_status("long", lambda status: (status.get("runId"), status["phase"]) == ("two", "Running"), 90)
    waits = [each["message"] for each in kube.heard("long", "Pending") if each["reason"] == "Pending"]
    assert waits[0] == f"Attempt 1 starts when Job {old} has stopped."
    assert all(f" starts when pod {old}" in each for each in waits[1:])
    # What has ended may take the kubelet a moment to remove.
    pods = kube.every("pod", "dcp-operator.io/checkpoint=long")
    assert not [each for each in pods if old in each["metadata"]["name"] and each["status"]["phase"] == "Running"]

    # Its pods have just started: a SIGTERM lost in the boot of Python would cost the whole grace of 60 s.
    kube("delete", "checkpoint", "long", "--timeout=30s")
    until(lambda: left(kube, "long"), lambda found: not found, "the deleted Checkpoint's end", 50)


@pytest.mark.slow("the Job is suspended for longer than startSeconds")
def test_a_job_that_its_queue_suspends_and_resumes_goes_on_as_the_same_attempt(kube: Kube, facts: Facts) -> None:
    """As Kueue does to preempt: the Job is suspended by somebody else, for longer than a start may take."""
    body = slow(facts, "queued", kube.namespace)
    body["spec"] |= {**failing("Slow", 8), "timeouts": {"startSeconds": 30}}
    kube.apply(workloads(), body)
    status = kube.until_phase("queued", "Running", seconds=120)
    job = status["jobRef"]["name"]
    started = datetime.fromisoformat(kube.get("job", job)["status"]["startTime"])

    kube("patch", "job", job, "--type=merge", "-p", '{"spec": {"suspend": true}}')
    kube.until_phase("queued", "Queued", seconds=30)
    until(lambda: datetime.now(UTC), lambda now: now > started + timedelta(seconds=40), "the end of startSeconds", 60)
    kube("patch", "job", job, "--type=merge", "-p", '{"spec": {"suspend": false}}')

    status = kube.until_phase("queued", "Succeeded", seconds=120)
    assert (status["reason"], status["attempts"], status["jobRef"]["name"]) == ("Saved", 1, job)
    assert status["retries"] == {"lastEnded": 1}


def test_run_again_and_removed_when_its_time_is_over(kube: Kube, facts: Facts) -> None:
    again = gpt(facts, "again", f"{kube.namespace}/again", workers=ONE)
    again["spec"]["save"] = {"ifExists": "Replace"}
    kube.apply(again)
    first = kube.until_phase("again", "Succeeded", "Failed", seconds=90)
    assert first["reason"] == "Saved"
    kube("patch", "checkpoint", "again", "--type=merge", "-p", '{"spec": {"runId": "two"}}')
    second = kube.until_status(
        "again", lambda status: status.get("runId") == "two" and status.get("completionTime"), 90
    )
    assert second["checkpoint"]["saveId"] != first["checkpoint"]["saveId"]
    assert second["attempts"] == 1
    kube("patch", "checkpoint", "again", "--type=merge", "-p", '{"spec": {"ttlSecondsAfterFinished": 0}}')
    until(lambda: left(kube, "again"), lambda found: not found, "the finished Job's end", 60)
    assert kube.status("again")["phase"] == "Succeeded"


def test_a_second_save_to_a_url_that_is_being_saved_to_waits_for_the_first(kube: Kube, facts: Facts) -> None:
    kube.apply(workloads(), slow(facts, "first", kube.namespace))
    kube.until_phase("first", "Starting", "Running", seconds=30)
    kube.apply(gpt(facts, "late", f"{kube.namespace}/first", workers=ONE))
    status = kube.until_status("late", lambda status: status.get("reason") == "UrlInUse", 10)
    assert (status["phase"], status.get("attempts", 0)) == ("Pending", 0)
    assert "Checkpoint first is saving to the same URL" in condition(status, "Ready")["message"]
    assert left(kube, "late") == []
    kube("delete", "checkpoint", "first")
    assert kube.until_phase("late", "Succeeded", seconds=180)["reason"] == "Saved"


def test_a_delete_removes_the_save_that_it_names_and_no_other(kube: Kube, facts: Facts) -> None:
    """And the rule of the API server holds still which one that is."""
    path = f"{kube.namespace}/gone"
    kube.apply(gpt(facts, "saved", path, workers=ONE))
    save_id = kube.until_phase("saved", "Succeeded", seconds=120)["checkpoint"]["saveId"]
    delete = {"operation": "Delete", "storage": storage(facts, path)}
    kube.apply(checkpoint("other", delete | {"delete": {"saveId": "f" * 32}}))
    status = kube.until_phase("other", "Succeeded", "Failed", seconds=120)
    assert status["reason"] == "SaveMismatch"
    assert f"holds save {save_id} by Checkpoint {kube.namespace}/saved" in condition(status, "Ready")["message"]
    files = run_dir() / "s3" / facts.s3.bucket / path
    assert (files / ".metadata").exists()
    kube.apply(checkpoint("gone", delete | {"delete": {"saveId": save_id}}))
    status = kube.until_phase("gone", "Succeeded", "Failed", seconds=120)
    assert (status["reason"], status["checkpoint"]["saveId"]) == ("Deleted", save_id)
    assert [each for each in files.rglob("*") if each.is_file()] == []
    with pytest.raises(KubectlError, match="immutable"):
        kube("patch", "checkpoint", "gone", "--type=merge", "-p", '{"spec": {"delete": {"saveId": null}}}')


def test_a_namespace_is_deleted_with_its_running_checkpoint(admin: Kube, operator: Kube, facts: Facts) -> None:
    del operator
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "short-lived", "labels": RESTRICTED}})
    kube = admin.within("short-lived")
    kube.apply(secret(facts), workloads(), slow(facts, "long", kube.namespace))
    kube.until_phase("long", "Running", seconds=120)
    admin("delete", "namespace", "short-lived", "--timeout=100s")


@pytest.mark.parametrize(
    ("patch", "says"),
    [
        ({"workload": {"args": {"size": "2M"}}}, "spec.workload.args is immutable"),
        ({"storage": {"options": {"region": "elsewhere"}}}, "immutable"),
        ({"workers": {"podTemplate": {"spec": {"nodeSelector": {"a": "b"}}}}}, "spec.workers.podTemplate is immutable"),
        ({"operation": "Load"}, "immutable"),
    ],
)
def test_what_may_not_change_is_refused_in_words(kube: Kube, facts: Facts, patch: Body, says: str) -> None:
    workers = {**ONE, "podTemplate": {"spec": {"nodeSelector": {"a": "a"}}}}
    kube.apply(gpt(facts, "fixed", f"{kube.namespace}/fixed", suspend=True, workers=workers))
    with pytest.raises(KubectlError, match=says):
        kube("patch", "checkpoint", "fixed", "--type=merge", "-p", json.dumps({"spec": patch}))


@pytest.mark.adversary
def test_the_secret_is_nowhere_but_in_the_secret(kube: Kube, operator: Kube, admin: Kube, facts: Facts) -> None:
    kube.apply(gpt(facts, "quiet", f"{kube.namespace}/quiet", workers=ONE))
    assert kube.until_phase("quiet", "Succeeded", "Failed", seconds=90)["reason"] == "Saved"
    kinds = admin("api-resources", "--verbs=list", "-o", "name").split()
    seen = admin("get", ",".join(kind for kind in kinds if kind != "secrets"), "-A", "-o", "yaml", "--ignore-not-found")
    seen += kube("logs", "-l", "dcp-operator.io/checkpoint=quiet", "--tail=-1")
    seen += operator("logs", "-l", "app.kubernetes.io/name=dcp-operator", "--tail=-1")
    seen += "".join(
        path.read_text(errors="replace") for path in (run_dir() / "s3").rglob("*.json") if kube.namespace in str(path)
    )
    assert "quiet" in seen
    assert facts.s3.secret_key not in seen


@pytest.mark.adversary
def test_the_operator_may_not_read_secrets_nor_enter_pods(admin: Kube, operator: Kube) -> None:
    del operator
    account = "--as=system:serviceaccount:dcp-operator:dcp-operator"
    for what in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods/exec"),
        ("create", "pods"),
        ("patch", "jobs"),
    ):
        with pytest.raises(KubectlError, match="no"):
            admin("auth", "can-i", *what, "-A", account)
    rules = re.findall(r'"\*"', (TREE / "manifests/cluster-wide/rbac.yaml").read_text())
    assert rules == []


@pytest.mark.alone
def test_the_standby_takes_over_when_the_leader_is_killed(kube: Kube, operator: Kube, facts: Facts) -> None:
    def holder() -> str:
        found: str = operator.get("lease", "dcp-operator")["spec"].get("holderIdentity", "")
        return found

    def leads(name: str) -> bool:
        """Return whether a pod that is there leads: the Lease may name one that is gone."""
        return f"pod/{name.partition('_')[0]}" in operator("get", "pods", "-o", "name").split()

    before = until(holder, leads, "a leader", 60)
    operator("delete", "pod", before.partition("_")[0], "--grace-period=0", "--force")
    until(holder, lambda name: name not in {"", before}, "another leader", 60)
    kube.apply(gpt(facts, "after", f"{kube.namespace}/after", suspend=True))
    kube.until_phase("after", "Suspended", seconds=60)


@pytest.fixture
def own(admin: Kube) -> Iterator[str]:
    name = f"only-{uuid.uuid4().hex[:8]}"  # the store outlives a run, and so does what stands at a URL
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    yield name
    admin("delete", "namespace", name, "--wait=false")


@pytest.mark.alone
def test_an_operator_of_one_namespace(
    own: str, admin: Kube, operator: Kube, facts: Facts, tmp_path_factory: pytest.TempPathFactory
) -> None:
    operator("scale", "deployment/dcp-operator", "--replicas=0")
    try:
        folder = kustomization(facts, tmp_path_factory, "manifests/namespaced", own)
        admin("apply", "-k", str(folder))
        kube = admin.within(own)
        rolled_out(kube)
        kube.apply(secret(facts), gpt(facts, "here", f"{own}/here", workers=ONE))
        assert kube.until_phase("here", "Succeeded", "Failed", seconds=120)["reason"] == "Saved"
    finally:
        operator("scale", "deployment/dcp-operator", "--replicas=2")
        rolled_out(operator)
