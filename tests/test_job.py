"""An attempt's objects. The golden files are read by people; DCP_UPDATE_GOLDEN=1 writes them anew."""

import copy
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from dcp_contract.environment import CA_ENV, CA_KEY, CREDENTIALS_ENV
from dcp_contract.storage_options import CREDENTIAL_KEYS
from dcp_contract.task import Task
from dcp_operator.api.naming import INDEX_LABEL
from dcp_operator.api.pod.template import merged
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.controllers.checkpoint.observed import observe
from dcp_operator.objects.job import Builder
from scenes import checkpoint

GOLDEN = Path(__file__).parent / "golden"
TEMPLATE: dict[str, Any] = {
    "metadata": {"labels": {"team": "ml"}, "annotations": {"note": "kept"}},
    "spec": {
        "nodeSelector": {"gpu": "h100"},
        "serviceAccountName": "trainer",
        "tolerations": [
            {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists", "effect": "NoExecute"},
        ],
        "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "dcp-tmp", "configMap": {"name": "tmp"}},
        ],
        "containers": [
            {
                "name": "worker",
                "resources": {"requests": {"memory": "64Gi"}},
                "env": [{"name": "NCCL_DEBUG", "value": "INFO"}, {"name": "HOME", "value": "/root"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}, {"name": "data", "mountPath": "/tmp"}],
            },
            {"name": "logs", "image": "logs:1"},
        ],
        "initContainers": [{"name": "fetch", "image": "fetch:1"}],
    },
}
S3 = {"spec.storage.credentialsSecretRef": {"name": "s3"}, "spec.storage.options": {"endpointUrl": "http://s3:7070"}}
CASES: dict[str, tuple[dict[str, Any], int, bool]] = {
    "one-node": ({"spec.workers": {}}, 1, False),
    "two-nodes-s3": (S3, 1, False),
    "cuda-template-rerun": (
        {
            "spec.workers": {
                "numNodes": 2,
                "numProcPerNode": 8,
                "device": "cuda",
                "podTemplate": TEMPLATE,
                "image": "mine:1",
            },
            "spec.runId": "again",
        },
        3,
        False,
    ),
    "queued-probe": (
        {
            "metadata.labels": {"kueue.x-k8s.io/queue-name": "gpus"},
            "spec.workers": {
                "numNodes": 4,
                "device": "cuda",
                "podTemplate": {
                    "spec": {
                        "containers": [{"name": "worker", "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 2}}}]
                    }
                },
            },
        },
        2,
        True,
    ),
}


def built(changes: dict[str, Any] | None = None, number: int = 1, *, probe: bool = False) -> list[dict[str, Any]]:
    of = checkpoint(changes)
    task = of.task(number, probe=probe)
    action = CreateAttempt(
        job_name=of.job_name(number), attempt=number, task=task, suspend=bool(of.queue) and not probe
    )
    return list(Builder(image="worker:1").objects(of, action))


def job(changes: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return built(changes, **more)[-1]


def pod_spec(changes: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = job(changes, **more)["spec"]["template"]["spec"]
    return found


def environment(spec: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in spec["containers"][0]["env"]}


@pytest.mark.parametrize("name", CASES)
def test_golden(name: str) -> None:
    changes, number, probe = CASES[name]
    objects = json.loads(json.dumps(built(changes, number, probe=probe)))
    path = GOLDEN / f"{name}.yaml"
    if os.environ.get("DCP_UPDATE_GOLDEN"):
        path.write_text(yaml.safe_dump_all(objects, sort_keys=False, width=1000))
    assert objects == list(yaml.safe_load_all(path.read_text()))


def test_the_same_in_the_same_out() -> None:
    changes = CASES["cuda-template-rerun"][0]
    before = copy.deepcopy(TEMPLATE)
    assert json.dumps(built(changes)) == json.dumps(built(changes))
    assert before == TEMPLATE


def test_the_job_comes_last_and_all_belong_to_the_checkpoint() -> None:
    objects = built()
    assert [each["kind"] for each in objects] == ["Service", "NetworkPolicy", "Job"]
    assert [each["kind"] for each in built({"spec.workers": {}})] == ["NetworkPolicy", "Job"]
    owners = {json.dumps(each["metadata"]["ownerReferences"]) for each in objects}
    names = {each["metadata"]["name"] for each in objects}
    assert len(owners) == len(names) == 1


def test_what_is_built_is_read_back_as_the_attempt() -> None:
    body = job({"spec.runId": "again"}, number=2, probe=True)
    body["metadata"]["creationTimestamp"] = "2026-11-24T08:00:00Z"
    metadata = body["spec"]["template"]["metadata"]
    labels = metadata["labels"] | {INDEX_LABEL: "0"}
    pod = {"metadata": {"name": "p", "labels": labels, "creationTimestamp": "2026-11-24T08:00:00Z"}, "status": {}}
    (found,) = observe([body], [pod]).attempts
    assert (found.attempt, found.run_id, found.probe, found.nodes, len(found.pods)) == (2, "again", True, 1, 1)


@pytest.mark.adversary
@pytest.mark.parametrize("text", ["$(HOME)", "$$", "a$b", "$(X)$(Y)"])
def test_kubernetes_does_not_expand_what_looks_like_a_reference(text: str) -> None:
    value: str = environment(pod_spec({"spec.workload.args": {"x": text}}))["DCP_TASK"]
    task = Task.model_validate_json(value.replace("$$", "$"))
    assert task.workload is not None
    assert task.workload.args == {"x": text}


@pytest.mark.adversary
def test_credentials_are_references_to_known_keys() -> None:
    variables = environment(pod_spec(S3))
    for key in CREDENTIAL_KEYS["s3"]:
        assert variables[key] == {"secretKeyRef": {"name": "s3", "key": key, "optional": True}}
    assert variables[CA_ENV] == {"secretKeyRef": {"name": "s3", "key": CA_KEY, "optional": True}}
    assert variables[CREDENTIALS_ENV] == "s3"
    assert not environment(pod_spec()).keys() & {*CREDENTIAL_KEYS["s3"], CA_ENV, CREDENTIALS_ENV}


@pytest.mark.parametrize(
    ("workers", "gpus"),
    [
        ({"device": "cuda", "numProcPerNode": 8}, 8),
        ({"device": "auto", "numProcPerNode": 8}, None),
        ({"device": "cpu"}, None),
        (
            {
                "device": "cuda",
                "numProcPerNode": 8,
                "podTemplate": {
                    "spec": {"containers": [{"name": "worker", "resources": {"limits": {"nvidia.com/gpu": 4}}}]}
                },
            },
            4,
        ),
    ],
)
def test_gpus(workers: dict[str, Any], gpus: int | None) -> None:
    resources = pod_spec({"spec.workers": workers})["containers"][0].get("resources", {})
    assert resources.get("limits", {}).get("nvidia.com/gpu") == gpus


@pytest.mark.adversary
def test_every_container_is_restricted() -> None:
    spec = pod_spec(CASES["cuda-template-rerun"][0])
    for container in [*spec["containers"], *spec["initContainers"]]:
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (False, True)
    assert spec["automountServiceAccountToken"] is False
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_ours_wins_over_the_template() -> None:
    spec = pod_spec(CASES["cuda-template-rerun"][0])
    assert environment(spec)["NCCL_DEBUG"] == "INFO"
    assert [each["name"] for each in spec["volumes"]] == ["dcp-shm", "data", "dcp-tmp"]
    assert [each["key"] for each in spec["tolerations"]] == [
        "node.kubernetes.io/not-ready",
        "node.kubernetes.io/unreachable",
        "nvidia.com/gpu",
    ]


def test_merging_keeps_what_only_one_has() -> None:
    assert merged({"a": 1, "b": {"c": 2}}, {"b": {"d": 3}, "e": 4}) == {"a": 1, "b": {"c": 2, "d": 3}, "e": 4}
    assert merged({"containers": None}, {"containers": [{"name": "worker"}]}) == {"containers": [{"name": "worker"}]}


def blocks(changes: dict[str, Any] | None = None) -> list[list[str]]:
    (policy,) = (each for each in built(changes) if each["kind"] == "NetworkPolicy")
    return [to["ipBlock"].get("except", []) for to in policy["spec"]["egress"][-1]["to"] if "ipBlock" in to]


@pytest.mark.adversary
def test_the_node_identity_is_only_for_workers_without_credentials() -> None:
    closed = [
        ["169.254.0.0/16", "100.100.100.200/32", "168.63.129.16/32"],
        ["fe80::/10", "fd00:ec2::254/128", "fd00:ec2::23/128", "fd20:ce::254/128"],
    ]
    assert blocks() == [[], []]
    assert blocks(S3) == closed
    assert blocks({"spec.storage.options": {"anon": True}}) == closed


@pytest.mark.adversary
def test_authorities_alone_leave_a_worker_the_identity_that_it_needs() -> None:
    alone = {"spec.storage.caSecretRef": {"name": "ca"}}
    assert blocks(alone) == [[], []]
    variables = environment(pod_spec(alone))
    assert variables[CA_ENV] == {"secretKeyRef": {"name": "ca", "key": CA_KEY, "optional": True}}
    assert not variables.keys() & {*CREDENTIAL_KEYS["s3"], CREDENTIALS_ENV}
    assert len(blocks(S3 | alone)[0]) == 3
    assert environment(pod_spec(S3 | alone))[CA_ENV]["secretKeyRef"]["name"] == "ca"


def test_the_backstop_is_later_than_every_deadline_of_ours() -> None:
    found = job({"spec.timeouts": {"startSeconds": 10, "activeSeconds": 20}})
    assert found["spec"]["activeDeadlineSeconds"] > 10 + 20 + 60
