"""Each reason, made to happen on the cluster: what `kubectl get` shows, and the event that goes with it."""

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from cluster.facts import Facts
from cluster.places import run_dir
from e2e.conftest import RESTRICTED, secret
from e2e.kube import Body, Kube, condition, until
from e2e.objects import checkpoint, gpt, storage

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(420)]

SOURCE = Path(__file__).with_name("workload_that_fails.py")
ONE = {"numProcPerNode": 1, "device": "cpu"}
GHOST = "ghost"
TWO_PODS = {"numNodes": 2, "device": "cpu"}
TERM = {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [GHOST]}]}
PREFERS = {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": TERM}]}
ON_GHOST = {"spec": {"affinity": {"nodeAffinity": PREFERS}, "tolerations": [{"key": GHOST, "operator": "Exists"}]}}
MOUNTED = {
    "spec": {
        "volumes": [{"name": "workloads", "configMap": {"name": "workloads"}}],
        "containers": [
            {
                "name": "worker",
                "env": [{"name": "PYTHONPATH", "value": "/workloads:/opt/dcp/examples"}],
                "volumeMounts": [{"name": "workloads", "mountPath": "/workloads"}],
            }
        ],
    }
}


def failing(name: str, steps: int = 1) -> Body:
    """Return the sections of a Save whose workload fails."""
    workload = {"entrypoint": f"workload_that_fails:{name}", "args": {"size": "1M"}}
    return {"workload": workload, "save": {"steps": steps}}


def workloads() -> Body:
    data = {SOURCE.name: SOURCE.read_text()}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "workloads"}, "data": data}


def pod(**container: Any) -> Body:
    return {"spec": {"containers": [{"name": "worker", **container}]}}


@dataclass(frozen=True)
class Case:
    """A Checkpoint and what becomes of it."""

    reason: str
    spec: Body
    phase: str = "Failed"
    says: str = ""
    failure: Body = field(default_factory=dict)


def cases(facts: Facts, space: str) -> dict[str, Case]:
    def at(path: str, **more: Any) -> Body:
        return storage(facts, f"{space}/{path}", **more)

    def save(path: str, **spec: Any) -> Body:
        found: Body = gpt(facts, "x", f"{space}/{path}", **spec)["spec"]
        return found

    def load(path: str, **spec: Any) -> Body:
        return save(path, operation="Load", **spec)

    elsewhere = at("unavailable")
    elsewhere["options"]["endpointUrl"] = "http://10.90.0.2:1"
    wrong = at("denied", credentialsSecretRef={"name": "wrong"})
    absent = at("keyless", credentialsSecretRef={"name": "absent"})
    typo = {"spec": {"nodeselector": {"gpu": "h100"}}}
    full = {
        "spec": {
            "volumes": [{"name": "small", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
            "containers": [{"name": "worker", "volumeMounts": [{"name": "small", "mountPath": "/small"}]}],
        }
    }
    return {
        "verified": Case("Verified", {"operation": "Verify", "storage": at("base")}, "Succeeded"),
        "conflict": Case("OverwriteConflict", save("base", workers=ONE), "Conflict", "already exists"),
        "entrypoint": Case(
            "EntrypointError", save("e", workload={"entrypoint": "nowhere:Workload"}, workers=ONE), says="nowhere"
        ),
        "raises": Case(
            "EntrypointError",
            save("r", **failing("RaisesInRankOne"), workers={"numProcPerNode": 2, "podTemplate": MOUNTED}),
            says="rank 1 says no",
            failure={"rank": 1},
        ),
        "rank": Case(
            "RankFailed",
            save("k", **failing("DiesInRankOne"), workers={"numProcPerNode": 2, "podTemplate": MOUNTED}),
            failure={"rank": 1, "retriable": True},
        ),
        "hung": Case(
            "RankHung",
            save(
                "h",
                **failing("HangsInRankOne"),
                workers={**TWO_PODS, "podTemplate": MOUNTED},
                timeouts={"activeSeconds": 180},  # a stopped rank is named after half of it, and at its end at once
            ),
            failure={"rank": 1},
        ),
        "slow": Case(
            "DeadlineExceeded",
            save(
                "s",
                **failing("Slow", 1000),
                workers={**ONE, "podTemplate": MOUNTED},
                timeouts={"activeSeconds": 20},
            ),
        ),
        "memory": Case(
            "OutOfMemory",
            save("o", workers={**ONE, "podTemplate": pod(resources={"limits": {"memory": "150Mi"}})}),
            failure={"retriable": True},
        ),
        "image": Case("ImagePullFailed", save("i", workers={**ONE, "image": "localhost:5000/none:1"}), says="none:1"),
        "timeout": Case(
            "StartTimeout",
            save(
                "t",
                workers={**ONE, "podTemplate": {"spec": {"nodeSelector": {"no": "where"}}}},
                timeouts={"startSeconds": 15},
            ),
            says="can't be scheduled",
        ),
        "unavailable": Case(
            "StorageUnavailable", save("u", storage=elsewhere, workers=ONE), failure={"retriable": True}
        ),
        "denied": Case("StorageDenied", save("d", storage=wrong, workers=ONE)),
        "keyless": Case("StorageDenied", save("n", storage=absent, workers=ONE), says="Secret absent is not there"),
        "full": Case(
            "StorageFull", save("f", storage={"url": "file:///small/x"}, workers={**ONE, "podTemplate": full})
        ),
        "loaded": Case("Loaded", load("base"), "Succeeded"),
        "missing": Case("CheckpointNotFound", load("nothing-here", workers=ONE)),
        "mismatch": Case(
            "StateMismatch", load("base", workload={"entrypoint": "gpt:Workload", "args": {"size": "2M"}}, workers=ONE)
        ),
        "corrupted": Case("CheckpointCorrupted", load("damaged", workers=ONE)),
        "device": Case("DeviceUnavailable", save("c", workers={"numProcPerNode": 2, "device": "cuda"})),
        "invalid": Case(
            "InvalidSpec", save("v", workers={**ONE, "podTemplate": typo}), says="did you mean nodeSelector?"
        ),
        "suspended": Case("Suspended", save("p", suspend=True), "Suspended"),
    }


NAMES = [
    "verified",
    "conflict",
    "entrypoint",
    "raises",
    "rank",
    "hung",
    "slow",
    "memory",
    "image",
    "timeout",
    "unavailable",
    "denied",
    "keyless",
    "full",
    "missing",
    "mismatch",
    "corrupted",
    "device",
    "invalid",
    "suspended",
    "loaded",
]


@pytest.fixture(scope="module")
def space(admin: Kube, operator: Kube, facts: Facts) -> Iterator[Kube]:
    """A namespace where all of them were applied at once, after a checkpoint to load and a damaged one."""
    del operator
    name = f"reasons-{uuid.uuid4().hex[:8]}"
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    kube = admin.within(name)
    wrong = {"AWS_ACCESS_KEY_ID": facts.s3.access_key, "AWS_SECRET_ACCESS_KEY": "nothing"}
    kube.apply(
        secret(facts),
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "wrong"}, "stringData": wrong},
        workloads(),
        gpt(facts, "base", f"{name}/base"),
        gpt(facts, "damaged", f"{name}/damaged", workers=ONE),
    )
    every = {each: checkpoint(each, case.spec) for each, case in cases(facts, name).items()}
    # The time for a rank to load torch and to hang is that of this attempt: it starts before the crowd.
    kube.apply(every.pop("hung"))
    with Gpus(admin, 4), Ghost(admin, kube) as ghost:
        kube.apply(gpt(facts, "node", f"{name}/node", workers={**ONE, "podTemplate": ON_GHOST}))
        ghost.run()
        kube.until_phase("node", "Running", seconds=20)
        for saved in ("base", "damaged"):
            kube.until_phase(saved, "Succeeded", seconds=120)
        damage(facts, f"{name}/damaged")
        kube.apply(*every.values())
        yield kube
    admin("delete", "namespace", name, "--wait=false")


class Gpus:
    """Say that every node has so many GPUs, so that pods that ask for them are scheduled."""

    def __init__(self, admin: Kube, count: int) -> None:
        self.admin = admin
        self.count = count

    def __enter__(self) -> None:
        self._patch("add", str(self.count))

    def __exit__(self, *_: object) -> None:
        self._patch("remove", None)

    def _patch(self, verb: str, value: str | None) -> None:
        patch = [
            {"op": verb, "path": f"/status/{what}/nvidia.com~1gpu"} | ({"value": value} if value else {})
            for what in ("capacity", "allocatable")
        ]
        for node in self.admin("get", "nodes", "-o", "name").split():
            self.admin("patch", node, "--subresource=status", "--type=json", "-p", json.dumps(patch))


class Ghost:
    """A node that nothing runs on: it took a pod, and was never heard of again."""

    def __init__(self, admin: Kube, kube: Kube) -> None:
        self.admin = admin
        self.kube = kube

    def __enter__(self) -> Self:
        self.admin.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": GHOST, "labels": {"kubernetes.io/hostname": GHOST, "kubernetes.io/os": "linux"}},
                "spec": {"taints": [{"key": GHOST, "effect": "NoSchedule"}]},
            }
        )
        room = {"cpu": "8", "memory": "32Gi", "pods": "10", "ephemeral-storage": "100Gi"}
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "ready"}
        ready |= {"lastHeartbeatTime": now(), "lastTransitionTime": now()}
        status = {"capacity": room, "allocatable": room, "conditions": [ready]}
        self._patch_status(self.admin, "node", GHOST, status)
        return self

    def __exit__(self, *_: object) -> None:
        self.admin("delete", "node", GHOST, "--wait=false")

    def run(self) -> None:
        """Say of the pod on the node what its kubelet would say."""
        pod = until(
            lambda: [each for each in self.kube.every("pod") if each["spec"].get("nodeName") == GHOST],
            bool,
            "the pod on the node that dies",
        )[0]
        state = {"name": "worker", "image": "x", "imageID": "x", "ready": True, "restartCount": 0, "started": True}
        state["state"] = {"running": {"startedAt": now()}}
        self._patch_status(
            self.kube, "pod", pod["metadata"]["name"], {"phase": "Running", "containerStatuses": [state]}
        )

    def _patch_status(self, kube: Kube, kind: str, name: str, status: Body) -> None:
        kube("patch", kind, name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def damage(facts: Facts, path: str) -> None:
    """Flip a bit in the middle of the largest file of a checkpoint in the store, which keeps each object in a file."""
    root = run_dir() / "s3" / facts.s3.bucket / path
    largest = max((each for each in root.rglob("*") if each.is_file()), key=lambda each: each.stat().st_size)
    with largest.open("r+b") as file:
        file.seek(largest.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.parametrize("name", NAMES)
def test_reason(name: str, space: Kube, facts: Facts) -> None:
    case = cases(facts, space.namespace)[name]
    phases = {"Succeeded", "Failed", "Conflict", "Suspended"}
    status = space.until_status(name, lambda seen: seen.get("phase") in phases, 300)
    assert (status["phase"], status.get("reason")) == (case.phase, case.reason), status.get("failure")
    ready = condition(status, "Ready")
    assert ready["reason"] == case.reason
    assert case.says in ready["message"]
    for key, value in case.failure.items():
        assert status["failure"][key] == value
    stalled = "True" if case.phase in {"Failed", "Conflict"} else "False"
    assert condition(status, "Stalled")["status"] == stalled
    space.heard(name, case.reason)


@pytest.mark.slow("a silent node has 50 s, and its pod 60 s more and then its grace")
def test_a_node_that_dies_costs_no_attempt(space: Kube) -> None:
    status = space.until_phase("node", "Succeeded", seconds=400)
    assert (status["reason"], status["retries"].get("failed", 0)) == ("Saved", 0)
    assert status["attempts"] == 3, "the lost one, a look for its commit, and one elsewhere"
    said = [each["message"] for each in space.heard("node", "WorkerLost")]
    assert any(f"on node {GHOST} was disrupted" in message for message in said), said
