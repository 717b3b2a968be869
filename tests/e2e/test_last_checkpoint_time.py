"""The annotation for schedulers on a real API server, as the operator's own account with its own permissions.

etcd and kube-apiserver are real, and so are the account's token, its roles and the admission policy. The JobSet's
definition is a stand-in that takes any spec.
"""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config.kube_config import load_kube_config

from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from dcp_operator.api.naming import LAST_CHECKPOINT_ANNOTATION
from dcp_operator.kube.client.api import CHECKPOINTS
from dcp_operator.kube.client.cluster import Cluster
from dcp_operator.kube.loop.last_checkpoint import Announcer
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.last_checkpoints import LastCheckpoints
from e2e.kube import Body, Kube, KubectlError, until
from e2e.operator_process import account_of_operator
from scenes import manifest
from target_cases import TARGETED

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]
COMPONENT = TREE / "manifests/components/last-checkpoint-time"
TIME = "2026-11-24T08:00:00Z"
JOB_SET_CRD: Body = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "jobsets.jobset.x-k8s.io", "annotations": {"api-approved.kubernetes.io": "unapproved"}},
    "spec": {
        "group": "jobset.x-k8s.io",
        "scope": "Namespaced",
        "names": {"plural": "jobsets", "singular": "jobset", "kind": "JobSet"},
        "versions": [
            {
                "name": "v1alpha2",
                "served": True,
                "storage": True,
                "subresources": {"status": {}},
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
                },
            }
        ],
    },
}


def job(name: str, **metadata: Any) -> Body:
    container = {"name": "train", "image": "train"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": {"app": "train"}, "annotations": {"mine": "stays"}, **metadata},
        "spec": {"template": template},
    }


def job_set(name: str) -> Body:
    spec = {"replicatedJobs": [{"name": "workers", "replicas": 2}]}
    return {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": name}, "spec": spec}


def read_job_set(admin: Kube) -> Body:
    found: Body = json.loads(admin("get", "jobset", "set", "-o", "json"))
    return found


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with api_server(controllers=False) as plane:
        admin = Kube(plane.kubeconfig())
        admin.apply(JOB_SET_CRD)
        until(lambda: admin("api-resources"), lambda found: "jobsets" in found, "the kind JobSet", 60)
        yield plane


@pytest.fixture(scope="module")
def admin(plane: ControlPlane) -> Kube:
    return Kube(plane.kubeconfig(), "default")


@pytest.fixture(scope="module")
def account(plane: ControlPlane, admin: Kube, tmp_path_factory: pytest.TempPathFactory) -> Kube:
    """The operator's account, with the permissions of its install without the component."""
    account = account_of_operator(plane, admin, tmp_path_factory.mktemp("account"))
    admin("apply", "-f", str(TREE / "manifests/cluster-wide/rbac.yaml"))
    return account


@pytest.fixture(scope="module")
def granted(admin: Kube, account: Kube) -> Kube:
    """The same with the component."""
    for name in ("rbac.yaml", "admission.yaml"):
        admin("apply", "-f", str(COMPONENT / name))
    admin.apply(job("probe"))
    until(lambda: denied(account, "job/probe", {"metadata": {"labels": {"x": "y"}}}), bool, "the policy", 60)
    return account


def denied(account: Kube, name: str, patch: Body, *options: str) -> str:
    """Return what is said against a patch; nothing where it would be taken."""
    try:
        account("patch", name, "--type=merge", "-p", json.dumps(patch), "--dry-run=server", *options)
    except KubectlError as error:
        return error.output
    return ""


def announce(account: Kube, committed: datetime) -> None:
    """Announce one commit, as the operator does."""

    async def once() -> None:
        configuration = Configuration()
        await load_kube_config(  # type: ignore[no-untyped-call]
            config_file=str(account.kubeconfig), client_configuration=configuration
        )
        cluster = Cluster(ApiClient(configuration))
        cache = Cache()
        commits = LastCheckpoints(cache)
        body = manifest({**TARGETED, "metadata.namespace": "default", "metadata.resourceVersion": "1"})
        body["status"] = {
            "phase": "Succeeded",
            "completionTime": committed.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "target": {"name": "Job train", "group": "g", "pod": "rank0", "podUid": "u"},
        }
        ClusterView(cache, {CHECKPOINTS.kind: (commits,)}).ingest(CHECKPOINTS, body)
        try:
            await Announcer(cluster, commits).announce()
        finally:
            await cluster.close()
        assert not commits.waiting

    asyncio.run(once())


def test_without_the_component_nothing_is_written(admin: Kube, account: Kube, caplog: pytest.LogCaptureFixture) -> None:
    admin.apply(job("train"))
    before = admin.get("job", "train")
    announce(account, datetime.now(UTC) + timedelta(minutes=1))
    assert "component last-checkpoint-time" in caplog.text
    assert admin.get("job", "train") == before
    admin("delete", "job", "train")


def test_the_topmost_object_gets_the_time_and_keeps_all_else(admin: Kube, granted: Kube) -> None:
    admin.apply(job_set("set"))
    uid = read_job_set(admin)["metadata"]["uid"]
    owner = {"apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "name": "set", "uid": uid, "controller": True}
    admin.apply(job("train", ownerReferences=[owner]))
    before, committed = read_job_set(admin), datetime.now(UTC) + timedelta(minutes=1)
    announce(granted, committed)
    after = read_job_set(admin)
    stands = after["metadata"].pop("annotations").pop(LAST_CHECKPOINT_ANNOTATION)
    assert stands == committed.strftime("%Y-%m-%dT%H:%M:%SZ")
    for each in (before, after):
        for key in ("resourceVersion", "managedFields", "annotations"):
            each["metadata"].pop(key, None)
    assert after == before
    announce(granted, committed - timedelta(seconds=30))
    assert read_job_set(admin)["metadata"]["annotations"][LAST_CHECKPOINT_ANNOTATION] == stands
    assert LAST_CHECKPOINT_ANNOTATION not in admin.get("job", "train")["metadata"]["annotations"]


@pytest.mark.adversary
@pytest.mark.parametrize("name", ["job/other", "jobset/other"])
@pytest.mark.parametrize(
    "patch",
    [
        pytest.param({"spec": {"suspend": True}}, id="suspend"),
        pytest.param({"spec": {"ttlSecondsAfterFinished": 0}}, id="time to live"),
        pytest.param({"metadata": {"labels": {"kueue.x-k8s.io/queue-name": "mine"}}}, id="label"),
        pytest.param({"metadata": {"finalizers": ["a.b/c"]}}, id="finalizer"),
        pytest.param(
            {
                "metadata": {
                    "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "x", "uid": "y"}],
                }
            },
            id="owner",
        ),
        pytest.param({"metadata": {"annotations": {"mine": "theirs"}}}, id="annotation"),
        pytest.param({"metadata": {"annotations": {"mine": None}}}, id="annotation taken away"),
        pytest.param({"metadata": {"annotations": {"kueue.x-k8s.io/priority-boost": "9"}}}, id="new annotation"),
        pytest.param({"metadata": {"annotations": {LAST_CHECKPOINT_ANNOTATION: "soon"}}}, id="no time"),
    ],
)
def test_the_account_may_change_nothing_else(admin: Kube, granted: Kube, name: str, patch: Body) -> None:
    other = job_set("other") if name.startswith("jobset") else job("other")
    other["metadata"]["annotations"] = {"mine": "stays"}
    admin.apply(other)
    allowed = {LAST_CHECKPOINT_ANNOTATION: TIME}
    assert denied(granted, name, {"metadata": {"annotations": allowed}}) == ""
    assert "denied request" in denied(granted, name, patch)
    # Nor along with what it may.
    metadata = patch.get("metadata") or {}
    both = {**patch, "metadata": {**metadata, "annotations": {**allowed, **(metadata.get("annotations") or {})}}}
    assert "denied request" in denied(granted, name, both)
    assert denied(admin, name, patch) == ""


@pytest.mark.adversary
def test_the_account_writes_no_status_of_a_job(admin: Kube, granted: Kube) -> None:
    admin.apply(job("other"))
    assert "forbidden" in denied(granted, "job/other", {"status": {"active": 3}}, "--subresource=status")
    # Not even where a role let it.
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "more"}}
    rule = {"apiGroups": ["batch"], "resources": ["jobs/status"], "verbs": ["get", "patch"]}
    admin.apply({**role, "rules": [rule]})
    admin("create", "rolebinding", "more", "--role=more", "--serviceaccount=dcp-operator:dcp-operator")
    said = until(
        lambda: denied(granted, "job/other", {"status": {"active": 3}}, "--subresource=status"),
        lambda found: "cannot patch" not in found,
        "the role",
        30,
    )
    assert "no subresource of a training" in said


def test_the_component_is_built_beside_the_install(admin: Kube, tmp_path: Path) -> None:
    up = "../" * len(tmp_path.parts[1:])
    made = {
        "resources": [f"{up}{str(TREE / 'manifests').lstrip('/')}"],
        "components": [f"{up}{str(COMPONENT).lstrip('/')}"],
    }
    (tmp_path / "kustomization.yaml").write_text(json.dumps(made))
    assert "name: dcp-operator-last-checkpoint-time" in admin("kustomize", str(tmp_path))
