"""The budget that holds evictions where no webhook may: on a real API server, with Kubernetes' own controllers.

etcd, kube-apiserver and kube-controller-manager are real, and so are the operator, as its own account with its own
permissions, and the channel. The test plays the kubelet: it makes a node and the pod of a training. The training's
agent is a program of the test's.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from cluster.processes import DIE_WITH_PARENT
from dcp_contract.training import AUDIENCE, CHANNEL_CONFIG_MAP
from e2e.drains import saves, series
from e2e.kube import Body, Kube, KubectlError, until
from e2e.operator_process import OperatorProcess
from free_ports import free_port

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(400)]
PROGRAM = Path(__file__).parent / "fake_training.py"
NODE = "worker-1"
LABELS = {"app": "train"}
HOLD = 30
BUDGET = "run-hold"


def manifests(admin: Kube, *names: str) -> None:
    for name in names:
        admin("apply", "-f", str(TREE / f"manifests/{name}"))


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with api_server() as plane:
        yield plane


@pytest.fixture(scope="module")
def admin(plane: ControlPlane) -> Iterator[Kube]:
    Kube(plane.kubeconfig()).install_crds()
    kube = Kube(plane.kubeconfig(), "default")
    manifests(kube, "cluster-wide/namespace.yaml", "cluster-wide/rbac.yaml")
    manifests(kube, "components/drain-signals/rbac.yaml", "components/disruption-budget/rbac.yaml")
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "dcp-operator"}}
    kube.within("dcp-operator").apply(account)
    with node(kube):
        yield kube


@contextmanager
def node(admin: Kube) -> Iterator[None]:
    """Have a node be there, whose kubelet says again and again that it is ready."""
    admin.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}})
    stop = threading.Event()

    def beat() -> None:
        while True:
            condition = {"type": "Ready", "status": "True", "reason": "Test", "message": str(time.time())}
            condition["lastHeartbeatTime"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            patch = json.dumps({"status": {"conditions": [condition]}})
            admin("patch", "node", NODE, "--subresource=status", "--type=strategic", "-p", patch)
            if stop.wait(10):
                return

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def pod(admin: Kube) -> Iterator[str]:
    """A pod of the training that runs and is ready."""
    spec = {
        "nodeName": NODE,
        "terminationGracePeriodSeconds": 0,
        "containers": [{"name": "train", "image": "train"}],
    }
    metadata = {"name": "rank0", "labels": LABELS}
    admin.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
    admin("patch", "pod", "rank0", "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    yield "rank0"
    admin("delete", "pod", "rank0", "--ignore-not-found", "--force", "--grace-period=0")


@pytest.fixture
def operator(plane: ControlPlane, admin: Kube, tmp_path: Path) -> Iterator[OperatorProcess]:
    config = json.loads(plane.kubeconfig().read_text())
    config["users"][0]["user"]["token"] = admin.within("dcp-operator")("create", "token", "dcp-operator").strip()
    path, port = tmp_path / "account.kubeconfig", free_port()
    path.write_text(json.dumps(config))
    options = ("--no-elect", "--channel-port", str(port), "--channel-url", f"https://127.0.0.1:{port}")
    with OperatorProcess(path, tmp_path / "operator.log", options) as process:
        process.wait_in_service()
        yield process
        print(process.log.read_text()[-3000:])


@pytest.fixture
def training(admin: Kube, operator: OperatorProcess, pod: str, tmp_path: Path) -> Iterator[None]:
    """The agent of that pod, which is connected."""
    admin.apply(series(f"{HOLD}s", {"selector": {"matchLabels": LABELS}}))
    folder = tmp_path / "channel"
    folder.mkdir()
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={pod}", f"--audience={AUDIENCE}")
    (folder / "token").write_text(admin("create", "token", "default", *bound).strip())
    maps = until(lambda: admin.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "the ConfigMap", 60)
    data = next(each["data"] for each in maps if each["metadata"]["name"] == CHANNEL_CONFIG_MAP)
    for name, text in data.items():
        (folder / name).write_text(text)
    with (tmp_path / "training.log").open("wb") as log:
        agent = subprocess.Popen(
            [*DIE_WITH_PARENT, sys.executable, str(PROGRAM)],
            env=os.environ | {"DCP_CHANNEL": str(folder)},
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        agent.kill()
        agent.wait()
        admin("uncordon", NODE)
        admin("delete", "checkpointseries", "run", "--ignore-not-found")
        until(lambda: admin("get", "pdb,job,checkpoint", "-o", "name"), lambda found: not found, "the end of all", 60)


def evicted(admin: Kube, pod: str) -> str:
    """Try to evict a pod; return why that is refused, nothing where it is let through."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": "default"}}
    try:
        admin("create", "--raw", f"/api/v1/namespaces/default/pods/{pod}/eviction", "-f", "-", objects=body)
    except KubectlError as error:
        return error.output
    return ""


def budgets(admin: Kube) -> list[Body]:
    found: list[Body] = json.loads(admin("get", "pdb", "-o", "json"))["items"]
    return found


def stands(admin: Kube) -> Body:
    """Wait until the budget stands, as the disruption controller sees it."""

    def refuses(found: list[Body]) -> bool:
        return any(
            each["metadata"]["name"] == BUDGET
            and each.get("status", {}).get("observedGeneration") == each["metadata"]["generation"]
            and each["status"]["currentHealthy"] == each["status"]["desiredHealthy"] == 1
            for each in found
        )

    found: list[Body] = until(lambda: budgets(admin), refuses, "the budget", 60)
    return next(each for each in found if each["metadata"]["name"] == BUDGET)


def test_an_eviction_waits_for_the_save_that_a_cordon_begins(admin: Kube, training: None, pod: str) -> None:
    budget = stands(admin)
    assert budget["spec"] == {
        "minAvailable": 1,
        "selector": {"matchLabels": LABELS},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    assert "disruption budget" in evicted(admin, pod)
    assert saves(admin) == []
    admin("cordon", NODE)
    # As a drain does it: again and again, until it is let through.
    until(lambda: evicted(admin, pod), lambda why: why == "", "the eviction", 60)
    (save,) = saves(admin)
    assert (save["status"]["phase"], save["status"]["reason"]) == ("Succeeded", "Saved")
    assert save["spec"]["target"] == {"selector": {"matchLabels": LABELS}}
    # What is evicted is let go for good: nothing holds up the node once more.
    assert not [each for each in budgets(admin) if not each["metadata"].get("deletionTimestamp")]


@pytest.mark.adversary
@pytest.mark.slow("the time that evictions are held has to pass")
def test_an_operator_that_is_gone_holds_up_no_eviction_for_longer_than_it_was_told(
    admin: Kube, training: None, operator: OperatorProcess, pod: str
) -> None:
    first = stands(admin)["metadata"]["ownerReferences"][0]["uid"]
    # While the operator is there the budget is handed on, from Job to Job, and stands.
    until(
        lambda: budgets(admin)[0]["metadata"]["ownerReferences"][0]["uid"], lambda uid: uid != first, "the next", HOLD
    )
    until(lambda: admin.every("job"), lambda found: len(found) == 1, "the end of the first Job", 30)
    stands(admin)
    assert "disruption budget" in evicted(admin, pod)
    operator.kill()
    killed = time.monotonic()
    admin("cordon", NODE)
    assert "disruption budget" in evicted(admin, pod)
    until(lambda: evicted(admin, pod), lambda why: why == "", "the eviction", HOLD + 30)
    assert time.monotonic() - killed > HOLD / 4
    assert saves(admin) == []
    assert [each["metadata"]["name"] for each in budgets(admin)] == []


@pytest.mark.adversary
def test_pods_that_have_a_budget_get_no_second_one(admin: Kube, training: None, pod: str) -> None:
    """Two make every eviction fail with an error, for ever."""
    stands(admin)
    metadata = {"name": "theirs"}
    spec = {"maxUnavailable": 1, "selector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}
    theirs: Body = {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata, "spec": spec}
    admin.apply(theirs)
    until(
        lambda: [each["metadata"]["name"] for each in budgets(admin)], lambda found: found == ["theirs"], "theirs", 30
    )
    field = "involvedObject.name=run,reason=BudgetLeftOut"
    until(lambda: admin("get", "events", "--field-selector", field), lambda found: "theirs" in found, "the event", 30)
    admin("delete", "pdb", "theirs")
    stands(admin)
