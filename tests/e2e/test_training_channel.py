"""A Save of a running training in the cluster: the installed operator, its Service, a pod's own token, kubectl."""

import json
from pathlib import Path

import pytest

from cluster.facts import Facts
from dcp_contract.training import AUDIENCE, CHANNEL_CONFIG_MAP, CHANNEL_FOLDER
from e2e.kube import Body, Kube, until
from e2e.objects import checkpoint

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(400)]
PROGRAM = (Path(__file__).parent / "fake_training.py").read_text()
TARGET: Body = {"operation": "Save", "target": {"kind": "Job", "name": "train"}}


def training(facts: Facts, name: str = "train", audience: str = AUDIENCE) -> list[Body]:
    """Return a Job of one pod whose agent is connected, as the documents say that one is made."""
    sources = [
        {"serviceAccountToken": {"audience": audience, "path": "token"}},
        {"configMap": {"name": CHANNEL_CONFIG_MAP, "optional": True}},
    ]
    spec = {
        "restartPolicy": "Never",
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "volumes": [
            {"name": "dcp-operator", "projected": {"sources": sources}},
            {"name": "program", "configMap": {"name": name}},
        ],
        "containers": [
            {
                "name": "train",
                "image": facts.images["worker"],
                "command": ["python", "/program/train.py"],
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [
                    {"name": "dcp-operator", "mountPath": CHANNEL_FOLDER, "readOnly": True},
                    {"name": "program", "mountPath": "/program"},
                ],
            }
        ],
    }
    program = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"train.py": PROGRAM}}
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name}, "spec": {"template": {"spec": spec}}}
    return [program, job]


def reason(kube: Kube, name: str) -> object:
    return kube.status(name).get("reason")


def says(kube: Kube, name: str) -> str:
    """Return the message of Ready."""
    return next((each["message"] for each in kube.status(name).get("conditions") or () if each["type"] == "Ready"), "")


def answers(kube: Kube, job: str) -> list[Body]:
    """Return what the training was answered."""
    return [json.loads(line) for line in kube.log(f"job/{job}").splitlines() if line.startswith("{")]


def test_a_running_training_is_asked_and_saves(kube: Kube, facts: Facts) -> None:
    kube.apply(checkpoint("first", TARGET))
    kube.until_status("first", lambda status: status.get("reason") == "TargetNotFound")
    # The ConfigMap comes with the first target of a namespace; a pod that has it when it starts is connected at once.
    until(lambda: kube.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "the ConfigMap", 30)
    kube.apply(*training(facts))
    status = kube.until_phase("first", "Succeeded", seconds=120)
    assert status["checkpoint"]["url"] == f"s3://bucket/run/step-{status['checkpoint']['step']}"
    assert (status["blockedSeconds"], status["target"]["name"], status["size"]) == (0.125, "Job train", "1.0 MiB")
    pod = kube.get("pod", status["target"]["pod"])
    assert pod["metadata"]["uid"] == status["target"]["podUid"]
    assert pod["metadata"]["labels"]["batch.kubernetes.io/job-name"] == "train"
    wide = kube("get", "checkpoint", "first", "-o", "wide").splitlines()
    assert (wide[0].split()[-1], wide[1].rstrip().endswith("Job train")) == ("TARGET", True)
    # The training is connected: the next request arrives at once, and two of them at the same time.
    kube.apply(*(checkpoint(f"next-{number}", TARGET) for number in range(2)))
    for number in range(2):
        assert kube.until_phase(f"next-{number}", "Succeeded", seconds=30)["durationSeconds"] <= 10
    kube.apply(checkpoint("mine", {**TARGET, "storage": {"url": "s3://bucket/run/mine"}}))
    assert kube.until_phase("mine", "Succeeded", seconds=30)["checkpoint"]["url"] == "s3://bucket/run/mine"
    # Without its pods nobody is left to be asked, and the Save has an end.
    kube("delete", "job", "train")
    until(lambda: kube.every("pod"), lambda pods: not pods, "the end of the pods", 60)
    kube.apply(checkpoint("too-late", {**TARGET, "timeouts": {"activeSeconds": 5}}))
    assert kube.until_phase("too-late", "Failed", seconds=60)["reason"] == "DeadlineExceeded"


@pytest.mark.adversary
def test_what_a_training_saves_by_itself_is_listed_and_what_is_not_its_own_is_refused(kube: Kube, facts: Facts) -> None:
    """Nothing but the series has a target here: the certificates come by it."""
    template = {"spec": {"operation": "Save", "target": TARGET["target"]}}
    spec = {"storage": {"url": "s3://bucket/run"}, "retention": {"last": 5}, "template": template}
    kind = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointSeries"}
    kube.apply(kind | {"metadata": {"name": "run"}, "spec": spec})
    until(lambda: kube.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "the ConfigMap", 30)
    program, job = training(facts)
    job["spec"]["template"]["spec"]["containers"][0]["env"] = [{"name": "OWN", "value": "1"}]
    kube.apply(program, job)
    found = until(
        lambda: kube.get("checkpointseries", "run").get("status") or {},
        lambda status: status.get("latest") and status.get("refusedSave"),
        "a save that is taken and one that is not",
        120,
    )
    assert (found["latest"]["url"], found["latest"]["step"]) == ("s3://bucket/run/step-1", 1)
    assert found["refusedSave"]["url"] == "s3://bucket/of-others/step-1"
    (pod,) = kube.every("pod")
    assert found["retention"]["keepOff"] == [pod["metadata"]["name"]]
    (told,) = kube.every("checkpoint", "dcp-operator.io/series=run")
    assert told["metadata"]["name"] == found["latest"]["name"]
    assert (told["status"]["phase"], told["status"]["target"]["podUid"]) == ("Succeeded", pod["metadata"]["uid"])
    assert "outside of spec.storage.url" in kube("get", "events", "--field-selector", "reason=SaveRefused")
    # Both are acknowledged, and the agent is told who removes.
    lines = until(
        lambda: answers(kube, "train"), lambda each: each and each[-1].get("listed") == 0, "both acknowledged", 30
    )
    assert lines[-1]["retention"] == "run"


@pytest.mark.adversary
def test_a_token_for_another_audience_is_refused_and_the_save_waits(kube: Kube, facts: Facts) -> None:
    kube.apply(checkpoint("save", TARGET))
    until(lambda: kube.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "the ConfigMap", 30)
    kube.apply(*training(facts, audience="another-service"))
    until(lambda: reason(kube, "save"), lambda found: found == "TargetNotListening", "TargetNotListening", 90)
    pods = [each["metadata"]["name"] for each in kube.every("pod")]
    assert [each for each in pods if each in says(kube, "save")] == pods
    found = until(
        lambda: [each for each in answers(kube, "train") if "status" in each],
        lambda each: any(answer["status"] == 401 for answer in each),
        "a refusal",
        30,
    )
    assert {each["status"] for each in found} <= {401, 429, 503}
    assert "is not for dcp-operator" in next(each["line"] for each in found if each["status"] == 401)


@pytest.mark.alone
@pytest.mark.slow("the kubelet brings the new certificates once a minute")
def test_a_training_finds_the_operator_that_takes_over(kube: Kube, operator: Kube, facts: Facts) -> None:
    kube.apply(checkpoint("before", TARGET))
    until(lambda: kube.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "the ConfigMap", 30)
    kube.apply(*training(facts))
    kube.until_phase("before", "Succeeded", seconds=120)
    operator("delete", "pod", "-l", "app.kubernetes.io/name=dcp-operator", "--grace-period=0", "--force")
    kube.apply(checkpoint("after", TARGET))
    status = kube.until_phase("after", "Succeeded", seconds=240)
    # The training went on, and is the same process group.
    assert status["target"]["group"] == kube.status("before")["target"]["group"]
