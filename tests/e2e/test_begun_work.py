"""Work that has begun, and what happens around it: another operator, a Job deleted by hand, a quota, a finalizer.

etcd, kube-apiserver and its controllers are real; there is no kubelet, so the test says what pods do.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cluster.controlplane import api_server
from e2e.kube import Body, Kube, condition, until
from e2e.operator_process import OperatorProcess

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def admin() -> Iterator[Kube]:
    with api_server() as plane:
        kube = Kube(plane.kubeconfig())
        kube.install_crds()
        yield kube


@pytest.fixture
def kube(admin: Kube, request: pytest.FixtureRequest) -> Kube:
    name = request.node.name.replace("_", "-")[:60].rstrip("-")
    admin("create", "namespace", name)
    kube = admin.within(name)
    until(lambda: kube.every("serviceaccount"), bool, "the namespace's account", 30)
    return kube


@pytest.fixture
def operator(kube: Kube, tmp_path: Path) -> Iterator[Callable[..., OperatorProcess]]:
    """What starts an operator with options; none outlives its test, not even one that never came into service."""
    with ExitStack() as running:

        def start(*options: str) -> OperatorProcess:
            process = OperatorProcess(kube.kubeconfig, tmp_path / "operator.log", ("--no-elect", *options))
            running.enter_context(process).wait_in_service()
            return process

        yield start


@pytest.fixture
def running_operator(operator: Callable[..., OperatorProcess]) -> OperatorProcess:
    return operator()


def save(name: str, **spec: Any) -> Body:
    sections = {
        "operation": "Save",
        "storage": {"url": f"s3://bucket/{name}"},
        "workload": {"entrypoint": "gpt:Workload"},
        "workers": {"device": "cpu"},
    }
    return {
        "apiVersion": "dcp-operator.io/v1alpha1",
        "kind": "Checkpoint",
        "metadata": {"name": name},
        "spec": sections | spec,
    }


def pod_of(kube: Kube, name: str, number: int = 1) -> str:
    """Wait for the pod of a Checkpoint's attempt; return its name."""
    selector = f"dcp-operator.io/checkpoint={name},dcp-operator.io/attempt={number}"
    pods: list[Body] = until(lambda: kube.every("pod", selector), bool, f"a pod of {name}", 30)
    found: str = pods[0]["metadata"]["name"]
    return found


def say(kube: Kube, pod: str, phase: str, report: Body | None = None) -> None:
    """Say of a pod what a kubelet would."""
    now = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
    started = {"startedAt": now}
    state: Body = {"running": started}
    if report is not None:
        ended = {"exitCode": 0, "finishedAt": now, "message": json.dumps(report)}
        state = {"terminated": started | ended}
    container = {"name": "worker", "image": "w", "imageID": "w", "ready": False, "restartCount": 0, "state": state}
    patch = {"status": {"phase": phase, "containerStatuses": [container]}}
    kube("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", json.dumps(patch))


SAVED = {"result": "Saved", "checkpoint": {"saveId": "s1", "step": 1}}


@pytest.mark.adversary
def test_other_options_let_running_attempts_finish(kube: Kube, operator: Callable[..., OperatorProcess]) -> None:
    """O S1-3: it failed all of them, for good."""
    first = operator()
    kube.apply(save("begun"))
    say(kube, pod_of(kube, "begun"), "Running")
    kube.until_phase("begun", "Running")
    first.terminate()

    second = operator("--protocol", "gs")
    kube.apply(save("new"))
    waits = kube.until_phase("new", "Pending", seconds=30)
    assert waits["reason"] == "NotEnabled"
    assert kube.status("begun")["phase"] == "Running"
    say(kube, pod_of(kube, "begun"), "Succeeded", SAVED)
    assert kube.until_phase("begun", "Succeeded", seconds=30)["reason"] == "Saved"
    second.terminate()

    operator()
    assert kube.until_phase("new", "Starting", seconds=30)["attempts"] == 1


@pytest.mark.adversary
@pytest.mark.usefixtures("running_operator")
def test_a_job_that_is_deleted_by_hand_is_a_lost_worker(kube: Kube) -> None:
    """O S2-11: it was started anew under the same name, without a word."""
    kube.apply(save("lost", retries=0))
    say(kube, pod_of(kube, "lost"), "Running")
    status = kube.until_phase("lost", "Running")
    job = kube.get("job", status["jobRef"]["name"])
    assert status["jobRef"]["uid"] == job["metadata"]["uid"]
    kube("delete", "job", status["jobRef"]["name"], "--wait=false")
    # No kubelet: nobody else says that the pod has stopped.
    first = "dcp-operator.io/checkpoint=lost,dcp-operator.io/attempt=1"
    kube("delete", "pod", "-l", first, "--force", "--grace-period=0", "--ignore-not-found")
    found = kube.until_status("lost", lambda seen: seen.get("attempts") == 2, 60)
    assert found["retries"] == {"lastEnded": 1, "uncounted": 1, "probe": True}
    assert found["failure"]["reason"] == "WorkerLost"
    assert "was deleted, and not by the operator" in found["failure"]["message"]
    kube.heard("lost", "WorkerLost")


@pytest.mark.adversary
@pytest.mark.usefixtures("running_operator")
def test_an_attempt_ends_on_the_spec_that_it_began_with(kube: Kube) -> None:
    """O S1-3: it was stopped, and had failed. No policy is there that would keep anybody from changing args."""
    kube.apply(save("changed", workload={"entrypoint": "gpt:Workload", "args": {"size": "1M"}}))
    say(kube, pod_of(kube, "changed"), "Running")
    digest = kube.until_phase("changed", "Running")["freeFormDigest"]
    kube("patch", "checkpoint", "changed", "--type=merge", "-p", '{"spec": {"workload": {"args": {"size": "2M"}}}}')
    seen = kube.until_status("changed", lambda status: condition(status, "SpecChanged"), 30)
    assert seen["phase"] == "Running"
    kube.heard("changed", "SpecChanged")
    say(kube, pod_of(kube, "changed"), "Succeeded", SAVED)
    done = kube.until_phase("changed", "Succeeded", seconds=30)
    assert (done["reason"], done["freeFormDigest"]) == ("Saved", digest)
    assert digest in condition(done, "SpecChanged")["message"]


def quota(kube: Kube, **hard: str) -> None:
    """Set a quota and wait until it is counted by."""
    kube.apply({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "few"}, "spec": {"hard": hard}})
    until(
        lambda: kube.get("resourcequota", "few").get("status", {}).get("hard"), lambda seen: seen == hard, "quota", 30
    )


@pytest.mark.adversary
@pytest.mark.usefixtures("running_operator")
def test_a_quota_of_jobs_is_waited_for(kube: Kube) -> None:
    """O S3-3: it was given up after startSeconds."""
    quota(kube, **{"count/jobs.batch": "0"})
    kube.apply(save("held", timeouts={"startSeconds": 1}))
    status = kube.until_status("held", lambda seen: seen.get("reason") == "Forbidden", 30)
    assert (status["phase"], status.get("attempts", 0)) == ("Pending", 0)
    assert "exceeded quota: few" in condition(status, "Ready")["message"]
    kube("patch", "checkpoint", "held", "--type=merge", "-p", '{"spec": {"timeouts": {"startSeconds": 900}}}')
    kube("delete", "resourcequota", "few")
    kube.until_phase("held", "Starting", seconds=60)


@pytest.mark.adversary
@pytest.mark.usefixtures("running_operator")
def test_a_quota_of_pods_is_waited_for_in_its_own_words(kube: Kube) -> None:
    quota(kube, pods="0")
    kube.apply(save("held", timeouts={"startSeconds": 20}))
    status = kube.until_status("held", lambda seen: seen.get("reason") == "Forbidden", 60)
    assert status["phase"] == "Pending"
    assert "0 of 1 pods were created; Error creating: pods is forbidden: exceeded quota: few" in str(
        status["conditions"]
    )
    quota(kube, pods="1")
    kube.until_phase("held", "Starting", seconds=120)


@pytest.mark.adversary
@pytest.mark.usefixtures("running_operator")
def test_a_checkpoint_that_a_finalizer_keeps_is_stopped_and_holds_its_url_until_then(kube: Kube) -> None:
    """O S3-5: it ran on, and a second Save of its URL ran beside it."""
    first = save("first", storage={"url": "s3://bucket/shared"})
    first["metadata"]["finalizers"] = ["example.com/keep"]
    kube.apply(first)
    pod = pod_of(kube, "first")
    say(kube, pod, "Running")
    kube.until_phase("first", "Running")
    kube.apply(save("second", storage={"url": "s3://bucket/shared"}))
    kube.until_status("second", lambda seen: seen.get("reason") == "UrlInUse", 30)
    # A pod with a finalizer stays for as long as one whose kubelet takes its time.
    kube("patch", "pod", pod, "--type=merge", "-p", '{"metadata": {"finalizers": ["example.com/slow"]}}')
    kube("delete", "checkpoint", "first", "--wait=false")
    until(lambda: kube.every("job", "dcp-operator.io/checkpoint=first"), lambda jobs: not jobs, "the Job's end", 60)
    ending = "pods of Checkpoint first still run"
    kube.until_status("second", lambda seen: ending in condition(seen, "Ready")["message"], 30)
    kube("patch", "pod", pod, "--type=merge", "-p", '{"metadata": {"finalizers": null}}')
    kube("delete", "pod", pod, "--force", "--grace-period=0", "--ignore-not-found")
    kube.until_phase("second", "Starting", seconds=60)
    kube("patch", "checkpoint", "first", "--type=merge", "-p", '{"metadata": {"finalizers": null}}')


@pytest.mark.adversary
def test_an_object_that_no_operator_has_seen_is_not_done(kube: Kube) -> None:
    """O S2-7: kstatus takes an object without a status for done."""
    kube.apply(save("unseen"))
    assert kube.status("unseen") == {"observedGeneration": -1}


def posted(kube: Kube, body: Body, inside: str) -> None:
    """Create a Checkpoint with that JSON as its args, past all that kubectl would do with it."""
    text = json.dumps(body | {"spec": body["spec"] | {"workload": {"entrypoint": "gpt:Workload", "args": "ARGS"}}})
    path = f"/apis/dcp-operator.io/v1alpha1/namespaces/{kube.namespace}/checkpoints"
    kube("create", "--raw", path, "-f", "-", objects=text.replace('"ARGS"', inside))


@pytest.mark.adversary
def test_deep_and_large_checkpoints_hold_up_nobody(
    admin: Kube, kube: Kube, operator: Callable[..., OperatorProcess]
) -> None:
    """No policy is there that would refuse them. The API server takes 5 s for a write to what is so deep."""
    levels = 9_900
    for number in range(2):
        posted(kube, save(f"deep-{number}"), '{"a":' * levels + "1" + "}" * levels)
    posted(kube, save("large"), json.dumps({"x": {str(at): "x" * 100 for at in range(10_000)}}))
    operator("--workers", "1")
    admin("create", "namespace", "elsewhere")
    other = admin.within("elsewhere")
    other.apply(save("honest"))
    other.until_phase("honest", "Starting", seconds=10)
    for deep in ("deep-0", "deep-1"):
        kube.heard(deep, "InvalidSpec")
        assert kube("get", "checkpoint", deep, "-o", "jsonpath={.status.phase}") == ""
    refused = kube.until_phase("large", "Failed", seconds=10)
    assert "spec: is larger than 256 KiB" in condition(refused, "Ready")["message"]
