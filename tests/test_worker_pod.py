"""What a template may say of a worker pod, and what the operator says where it doesn't."""

import gc
import json
import sys
from typing import Any

import pytest
from typer.testing import CliRunner

from dcp_operator import __main__ as program
from dcp_operator.api.checkpoint.parsing import parse
from dcp_operator.api.json_types import Body
from dcp_operator.api.pod.rules import PodSecurity
from dcp_operator.api.site import LOCAL
from dcp_operator.cli import app
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.kube.process.settings import Settings
from dcp_operator.objects.job import Builder, NetworkIsolation
from scenes import attempt, created, decided, manifest, message, phase

RESTRICTED = Builder(image="worker:1")
NAMESPACE = Builder(image="worker:1", security=PodSecurity.NAMESPACE)
ANY = LOCAL.model_copy(update={"pod_security": PodSecurity.NAMESPACE})
OURS = {
    "runAsNonRoot": True,
    "runAsUser": 65532,
    "runAsGroup": 65532,
    "fsGroup": 65532,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
EACH = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
}


def objects(changes: Body, builder: Builder = RESTRICTED, *, probe: bool = False, queued: bool = False) -> list[Body]:
    of = parse(manifest(changes), site=ANY)
    task = of.task(1, probe=probe)
    return list(builder.objects(of, CreateAttempt(job_name=of.job_name(1), attempt=1, task=task, suspend=queued)))


def pod(template: Body, builder: Builder = RESTRICTED, *, probe: bool = False, **workers: Any) -> Body:
    url = workers.pop("url", "s3://b/x")
    changes = {"spec.workers": {"podTemplate": template, **workers}, "spec.storage.url": url}
    spec: Body = objects(changes, builder, probe=probe)[-1]["spec"]["template"]["spec"]
    return spec


def worker(spec: Body) -> Body:
    found: Body = next(each for each in spec["containers"] if each["name"] == "worker")
    return found


def contained(**fields: Any) -> Body:
    return {"spec": {"containers": [{"name": "worker", **fields}]}}


def context(**fields: Any) -> Body:
    return {"spec": {"securityContext": fields}}


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("said", "builder", "expected"),
    [
        pytest.param({}, RESTRICTED, OURS, id="nothing"),
        pytest.param(
            {"runAsUser": 1001, "supplementalGroups": [7]},
            RESTRICTED,
            OURS | {"runAsUser": 1001, "supplementalGroups": [7]},
            id="O S2-8: a user of one's own",
        ),
        pytest.param(
            {"runAsUser": None, "runAsGroup": None, "fsGroup": None},
            RESTRICTED,
            {key: value for key, value in OURS.items() if key not in {"runAsUser", "runAsGroup", "fsGroup"}},
            id="O S2-8: the cluster's user, by the template",
        ),
        pytest.param(
            {},
            Builder(image="w", user=None),
            {key: value for key, value in OURS.items() if key not in {"runAsUser", "runAsGroup", "fsGroup"}},
            id="O S2-8: the cluster's user, by the operator",
        ),
        pytest.param(
            {},
            Builder(image="w", user=7),
            OURS | dict.fromkeys(("runAsUser", "runAsGroup", "fsGroup"), 7),
            id="another default",
        ),
        pytest.param({"runAsNonRoot": None}, RESTRICTED, OURS, id="null undoes nothing"),
        pytest.param(
            {"runAsUser": 0, "runAsNonRoot": False, "sysctls": []}, RESTRICTED, OURS, id="what was accepted once"
        ),
        pytest.param(
            {"runAsUser": 0, "runAsNonRoot": False},
            NAMESPACE,
            OURS | {"runAsUser": 0, "runAsNonRoot": False},
            id="O S2-8: root, where the namespace judges",
        ),
        pytest.param(
            {"seccompProfile": None},
            NAMESPACE,
            {key: value for key, value in OURS.items() if key != "seccompProfile"},
            id="no profile, where the namespace judges",
        ),
    ],
)
def test_the_pods_security_context(said: Body, builder: Builder, expected: Body) -> None:
    assert pod(context(**said), builder)["securityContext"] == expected


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("said", "builder", "expected"),
    [
        pytest.param({}, RESTRICTED, EACH, id="nothing"),
        pytest.param({"runAsUser": 5}, RESTRICTED, EACH | {"runAsUser": 5}, id="a user of one's own"),
        pytest.param({"privileged": True, "capabilities": {"add": ["ALL"]}}, RESTRICTED, EACH, id="accepted once"),
        pytest.param(
            {"capabilities": {"add": ["IPC_LOCK"]}},
            NAMESPACE,
            EACH | {"capabilities": {"drop": ["ALL"], "add": ["IPC_LOCK"]}},
            id="O S2-8: memory for RDMA",
        ),
        pytest.param(
            {"runAsUser": 0},
            NAMESPACE,
            {key: value for key, value in EACH.items() if key != "runAsNonRoot"} | {"runAsUser": 0},
            id="root",
        ),
        pytest.param(
            {"privileged": True},
            NAMESPACE,
            {key: value for key, value in EACH.items() if key != "allowPrivilegeEscalation"} | {"privileged": True},
            id="privileged, with which the API server takes no false of ours",
        ),
        pytest.param(
            {"readOnlyRootFilesystem": False}, NAMESPACE, EACH | {"readOnlyRootFilesystem": False}, id="writable"
        ),
    ],
)
def test_a_containers_security_context(said: Body, builder: Builder, expected: Body) -> None:
    assert worker(pod(contained(securityContext=said), builder))["securityContext"] == expected


def test_root_of_a_pod_is_root_in_its_containers() -> None:
    assert "runAsNonRoot" not in worker(pod(context(runAsNonRoot=False, runAsUser=0), NAMESPACE))["securityContext"]


@pytest.mark.adversary
def test_the_nodes_namespaces_are_left_out_where_the_operator_judges() -> None:
    template: Body = {"spec": {"hostNetwork": True, "hostIPC": True, "hostPID": True}}
    assert not pod(template).keys() & {"hostNetwork", "hostIPC", "hostPID"}
    shared = pod(template, NAMESPACE)
    assert shared["hostNetwork"] is True
    assert shared["dnsPolicy"] == "ClusterFirstWithHostNet"
    assert pod({"spec": {"hostNetwork": True, "dnsPolicy": "Default"}}, NAMESPACE)["dnsPolicy"] == "Default"


GPU = "nvidia.com/gpu"


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        pytest.param({}, {GPU: 8}, id="nothing"),
        pytest.param(None, {GPU: 8}, id="null"),
        pytest.param({"limits": None}, {GPU: 8}, id="a null section"),
        pytest.param({"limits": {GPU: 4}}, {GPU: 4}, id="another number"),
        pytest.param({"requests": {GPU: 4}}, {}, id="as a request"),
        pytest.param({"limits": {"amd.com/gpu": 8}}, {"amd.com/gpu": 8}, id="O S2-6: AMD"),
        pytest.param({"limits": {"nvidia.com/mig-1g.10gb": 8}}, {"nvidia.com/mig-1g.10gb": 8}, id="O S2-6: MIG"),
        pytest.param({"limits": {"nvidia.com/gpu.shared": 8}}, {"nvidia.com/gpu.shared": 8}, id="O S2-6: shared"),
        pytest.param({"limits": {"gpu.intel.com/i915": 8}}, {"gpu.intel.com/i915": 8}, id="O S2-6: Intel"),
        pytest.param({"limits": {"gpu.intel.com/xe": 8}}, {"gpu.intel.com/xe": 8}, id="O S2-6: Intel's newer"),
        pytest.param({"limits": {"aliyun.com/gpu-mem": 8}}, {"aliyun.com/gpu-mem": 8}, id="O S2-6: by memory"),
        pytest.param({"claims": [{"name": "gpu"}]}, {}, id="O S2-6: a claim"),
        pytest.param({"limits": {"rdma/hca": 8}}, {"rdma/hca": 8, GPU: 8}, id="a network card is no GPU"),
        pytest.param(
            {"limits": {"vpc.amazonaws.com/efa": 4}}, {"vpc.amazonaws.com/efa": 4, GPU: 8}, id="nor is an EFA"
        ),
        pytest.param({"limits": {"cpu": 4}}, {GPU: 8}, id="nor is a CPU"),
    ],
)
def test_a_worker_on_cuda_asks_for_gpus_once(resources: Body | None, gpus: Body) -> None:
    spec = pod(contained(resources=resources), device="cuda", numProcPerNode=8)
    limits = worker(spec).get("resources", {}).get("limits", {})
    assert {name: value for name, value in limits.items() if "/" in name} == gpus


@pytest.mark.adversary
def test_another_vendors_gpu_is_named_once_for_all() -> None:
    spec = pod({}, device="cuda", numProcPerNode=4, gpuResource="amd.com/gpu")
    assert worker(spec)["resources"]["limits"] == {"amd.com/gpu": 4}


GREEDY: Body = {
    "metadata": {"labels": {"team": "ml"}},
    "spec": {
        "nodeSelector": {
            "nvidia.com/gpu.product": "H100",
            "node.kubernetes.io/instance-type": "p5.48xlarge",
            "kubernetes.io/arch": "arm64",
            "topology.kubernetes.io/zone": "a",
        },
        "affinity": {"nodeAffinity": {}},
        "topologySpreadConstraints": [],
        "runtimeClassName": "nvidia",
        "resourceClaims": [{"name": "gpu"}],
        "resources": {"limits": {"cpu": 200}},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "containers": [
            {
                "name": "worker",
                "resources": {
                    "requests": {"cpu": 180, "memory": "1800Gi", "ephemeral-storage": "1Ti", "rdma/hca": 8},
                    "limits": {"memory": "1800Gi", "nvidia.com/gpu": 8, "vpc.amazonaws.com/efa": 32, "rdma/hca": 8},
                    "claims": [{"name": "gpu"}],
                },
            },
            {"name": "exporter", "image": "e", "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 1}}},
        ],
        "initContainers": [{"name": "check", "image": "c", "resources": {"claims": [{"name": "gpu"}]}}],
    },
}


@pytest.mark.adversary
def test_a_probe_asks_for_little_and_runs_anywhere() -> None:
    spec = pod(GREEDY, probe=True, device="cuda", numProcPerNode=8)
    assert worker(spec)["resources"] == {"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
    assert "nvidia.com/gpu" not in str([each.get("resources") for each in spec["containers"]])
    assert spec["containers"][1]["resources"] == {"limits": {"cpu": 1}}
    assert spec["initContainers"][0]["resources"] == {}
    gone = {"affinity", "topologySpreadConstraints", "runtimeClassName", "resourceClaims", "resources"}
    assert not spec.keys() & gone
    assert spec["nodeSelector"] == {
        "kubernetes.io/os": "linux",
        "kubernetes.io/arch": "arm64",
        "topology.kubernetes.io/zone": "a",
    }
    assert {"key": "nvidia.com/gpu", "operator": "Exists"} in spec["tolerations"]


@pytest.mark.adversary
def test_a_probe_of_a_mounted_path_runs_where_the_workers_do() -> None:
    spec = pod(GREEDY, probe=True, url="file:///data/x")
    assert spec["nodeSelector"]["nvidia.com/gpu.product"] == "H100"
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert "resourceClaims" not in spec


def test_a_probe_keeps_the_runtime_that_isolates_it() -> None:
    assert pod({"spec": {"runtimeClassName": "gvisor"}}, probe=True)["runtimeClassName"] == "gvisor"


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("resources", "requests"),
    [
        pytest.param({}, {"cpu": "400m", "memory": "2048Mi"}, id="O S3-20: nothing"),
        pytest.param({"requests": {"cpu": 1}}, {"cpu": 1, "memory": "2048Mi"}, id="one of them"),
        pytest.param({"limits": {"memory": "1Gi"}}, {"cpu": "400m"}, id="a limit is a request too"),
        pytest.param({"requests": {"cpu": 1, "memory": "1Gi"}}, {"cpu": 1, "memory": "1Gi"}, id="both"),
    ],
)
def test_requests_of_a_worker(resources: Body, requests: Body) -> None:
    assert worker(pod(contained(resources=resources), numProcPerNode=4))["resources"]["requests"] == requests


@pytest.mark.adversary
def test_requests_of_a_whole_pod_are_left_alone() -> None:
    assert "resources" not in worker(pod({"spec": {"resources": {"requests": {"cpu": 1}}}}))


def mounts(spec: Body) -> Body:
    return {each["mountPath"]: each["name"] for each in worker(spec)["volumeMounts"]}


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("template", "expected", "volumes"),
    [
        pytest.param({}, {"/tmp": "dcp-tmp", "/dev/shm": "dcp-shm"}, ["dcp-tmp", "dcp-shm"], id="nothing"),
        pytest.param(
            contained(volumeMounts=[{"name": "own", "mountPath": "/tmp"}]) | {},
            {"/tmp": "own", "/dev/shm": "dcp-shm"},
            ["dcp-shm"],
            id="O S3-20: /tmp of one's own",
        ),
        pytest.param(
            contained(volumeMounts=[{"name": "own", "mountPath": "/dev/shm/"}]),
            {"/dev/shm/": "own", "/tmp": "dcp-tmp"},
            ["dcp-tmp"],
            id="O S3-20: /dev/shm in another spelling",
        ),
        pytest.param(
            {"spec": {"volumes": [{"name": "dcp-shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Gi"}}]}},
            {"/tmp": "dcp-tmp", "/dev/shm": "dcp-shm"},
            ["dcp-tmp", "dcp-shm"],
            id="O S3-20: a size",
        ),
    ],
)
def test_scratch_of_ones_own_wins(template: Body, expected: Body, volumes: list[str]) -> None:
    spec = pod(template)
    assert mounts(spec) == expected
    assert [each["name"] for each in spec["volumes"]] == volumes
    for volume in (template.get("spec") or {}).get("volumes", ()):
        assert volume in spec["volumes"]


def test_a_home_of_ones_own_wins() -> None:
    variables = {
        each["name"]: each.get("value") for each in worker(pod(contained(env=[{"name": "HOME", "value": "/x"}])))["env"]
    }
    assert (variables["HOME"], variables["USER"]) == ("/x", "nonroot")


NULLS: Body = {"volumes": None, "tolerations": None, "initContainers": None, "securityContext": None}


def test_nulls_of_a_template_engine_are_nothing() -> None:
    named: Body = {"name": "worker", "env": None, "volumeMounts": None, "resources": None, "securityContext": None}
    spec = pod({"metadata": None, "spec": {**NULLS, "containers": [named]}})
    assert [each["name"] for each in spec["volumes"]] == ["dcp-tmp", "dcp-shm"]
    assert worker(spec)["securityContext"] == EACH


QUEUED: Body = {
    "metadata.labels": {
        "kueue.x-k8s.io/queue-name": "gpus",
        "kueue.x-k8s.io/priority-class": "high",
        "kueue.x-k8s.io/max-exec-time-seconds": "600",
        "team": "ml",
    }
}


def kueue(job: Body) -> Body:
    return {name: value for name, value in job["metadata"]["labels"].items() if "kueue" in name}


@pytest.mark.adversary
def test_a_queued_job_says_to_kueue_what_its_checkpoint_says() -> None:
    job = objects(QUEUED, queued=True)[-1]
    assert kueue(job) == {name: value for name, value in QUEUED["metadata.labels"].items() if name != "team"}
    assert job["spec"]["suspend"] is True
    assert kueue(objects(QUEUED, probe=True)[-1]) == {}


@pytest.mark.adversary
def test_a_probe_does_not_wait_for_the_queue() -> None:
    of = parse(manifest(QUEUED), site=LOCAL)
    first = decided(of=of)
    assert phase(first) == ("Queued", "Queued")
    lost = decided(attempt(of=of), of=of, status=first.status).status
    status = {**lost, "retries": {"lastEnded": 1, "failed": 1, "probe": True}, "phase": "Pending"}
    probing = decided(of=of, status=status)
    assert created(probing) == [(2, True)]
    (action,) = [each for each in probing.actions if isinstance(each, CreateAttempt)]
    assert action.suspend is False
    assert phase(probing) == ("Starting", None)


@pytest.mark.adversary
def test_a_queue_that_was_taken_away_is_said() -> None:
    of = parse(manifest(), site=LOCAL)
    waiting = decided(attempt(of=of, suspended=True), of=of, status=decided(of=of).status)
    assert "the Checkpoint names no queue: put its label kueue.x-k8s.io/queue-name back" in message(waiting)


@pytest.mark.adversary
def test_where_the_namespace_decides_what_goes_out_nothing_is_opened() -> None:
    made = objects({}, Builder(image="w", isolation=NetworkIsolation.INGRESS))
    (policy,) = (each["spec"] for each in made if each["kind"] == "NetworkPolicy")
    both = next(each["spec"] for each in objects({}) if each["kind"] == "NetworkPolicy")
    assert policy == {"podSelector": both["podSelector"], "policyTypes": ["Ingress"], "ingress": both["ingress"]}


@pytest.mark.adversary
def test_without_policies_there_is_none() -> None:
    kinds = [each["kind"] for each in objects({}, Builder(image="w", isolation=NetworkIsolation.NONE))]
    assert kinds == ["Service", "Job"]


@pytest.mark.adversary
def test_stores_in_the_cluster_are_peers_beside_the_addresses_outside() -> None:
    policy = objects({})[1]
    assert {"namespaceSelector": {}} in policy["spec"]["egress"][-1]["to"]


@pytest.mark.adversary
def test_nobody_but_its_own_ranks_reaches_an_attempt() -> None:
    policy = objects({})[1]
    ranks = policy["spec"]["podSelector"]
    assert [*ranks["matchLabels"]] == ["dcp-operator.io/job"]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert policy["spec"]["ingress"] == [{"from": [{"podSelector": ranks}], "ports": [{"protocol": "TCP"}]}]


CLOSED: Body = {"spec.storage.credentialsSecretRef": {"name": "s3"}}
REFERENCE: Body = {"name": "AWS_ACCESS_KEY_ID", "valueFrom": {"secretKeyRef": {"name": "s3", "key": "id"}}}


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("changes", "closed"),
    [
        pytest.param({}, False, id="the cloud's identity is all there is"),
        pytest.param(CLOSED, True, id="credentials"),
        pytest.param({"spec.storage.options": {"anon": True}}, True, id="none wanted"),
        pytest.param({"spec.storage.caSecretRef": {"name": "ca"}}, False, id="O S2-3: authorities alone"),
        pytest.param(CLOSED | {"spec.storage.url": "file:///data/x"}, False, id="O S2-3: no key of a mounted path"),
        pytest.param({"spec.workers": {"podTemplate": contained(env=[REFERENCE])}}, True, id="by the template"),
        pytest.param(
            {"spec.workers": {"podTemplate": contained(env=[{"name": "A", "value": "b"}])}},
            False,
            id="another variable",
        ),
    ],
)
def test_a_worker_with_credentials_of_its_own_is_kept_from_the_nodes(changes: Body, closed: bool) -> None:  # noqa: FBT001
    policy = next(each for each in objects(changes) if each["kind"] == "NetworkPolicy")
    blocks = [to["ipBlock"] for to in policy["spec"]["egress"][-1]["to"] if "ipBlock" in to]
    assert [bool(each.get("except")) for each in blocks] == [closed, closed]


def test_a_manifest_for_a_cluster_that_allows_more_can_be_checked_and_run_here() -> None:
    template = {"spec": {"volumes": [{"name": "lustre", "hostPath": {"path": "/lustre"}}], "hostNetwork": True}}
    text = json.dumps(manifest({"spec.workers.podTemplate": template}))
    exits = {
        options: CliRunner().invoke(app.app, [*options, "-f", "-"], input=text).exit_code
        for options in (("validate",), ("validate", "--pod-security", "namespace"), ("run", "--rehearse"))
    }
    assert list(exits.values()) == [2, 0, 0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], (PodSecurity.RESTRICTED, 65532, NetworkIsolation.ATTEMPT)),
        (["--pod-security", "namespace"], (PodSecurity.NAMESPACE, 65532, NetworkIsolation.ATTEMPT)),
        (["--worker-uid", "none"], (PodSecurity.RESTRICTED, None, NetworkIsolation.ATTEMPT)),
        (["--worker-uid", "1001"], (PodSecurity.RESTRICTED, 1001, NetworkIsolation.ATTEMPT)),
        (["--network-policy", "ingress"], (PodSecurity.RESTRICTED, 65532, NetworkIsolation.INGRESS)),
        (["--network-policy", "none"], (PodSecurity.RESTRICTED, 65532, NetworkIsolation.NONE)),
    ],
)
def test_options(options: list[str], expected: object, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []

    async def run(settings: Settings) -> None:
        seen.append(settings)

    monkeypatch.setattr(program, "run", run)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    monkeypatch.setattr(gc, "set_threshold", lambda *_: None)
    monkeypatch.setattr(sys, "setrecursionlimit", lambda _: None)
    result = CliRunner().invoke(program.app, ["--worker-image", "w", "--no-elect", *options])
    assert result.exit_code == 0, result.output
    assert [(each.pod_security, each.worker_uid, each.isolation) for each in seen] == [expected]


@pytest.mark.parametrize("uid", ["0", "-1", "root", ""])
def test_a_uid_that_is_none(uid: str) -> None:
    result = CliRunner().invoke(program.app, ["--worker-image", "w", "--worker-uid", uid])
    assert result.exit_code == 2
    assert "write a number above 0, or none" in result.output
