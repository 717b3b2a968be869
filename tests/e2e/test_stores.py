"""Stores on a real API server: the operator as its own account validates them, and their statuses say what was found.

etcd, kube-apiserver and the operator are real, and so are the account's roles and the admission policies. The test
plays the workers by writing how a Checkpoint has ended.
"""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from benchmarks.operator_load import Client
from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from e2e.kube import Body, Kube, condition, until
from e2e.operator_process import OperatorProcess, account_of_operator
from store_scenes import store_manifest

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(600)]

FACTS = {"createGuard": "Atomic", "replaceGuard": "BestEffort", "versioning": "Enabled"}


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with api_server(controllers=False) as plane:
        admin = Kube(plane.kubeconfig())
        admin.install_crds()
        admin("apply", "-k", str(TREE / "manifests/api"))
        yield plane


@pytest.fixture(scope="module")
def admin(plane: ControlPlane) -> Kube:
    return Kube(plane.kubeconfig(), "default")


@pytest.fixture(scope="module")
def account(plane: ControlPlane, admin: Kube, tmp_path_factory: pytest.TempPathFactory) -> Kube:
    """The operator's account, with the permissions of its install."""
    account = account_of_operator(plane, admin, tmp_path_factory.mktemp("account"))
    admin("apply", "-f", str(TREE / "manifests/cluster-wide/rbac.yaml"))
    return account


@pytest.fixture
def operator(account: Kube, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(account.kubeconfig, tmp_path / "operator.log") as process:
        process.wait_in_service()
        yield process


def validations(kube: Kube, store: str) -> list[Body]:
    labelled = (each for each in kube.every("checkpoint") if each["spec"]["operation"] == "Validate")
    return [each for each in labelled if each["metadata"]["labels"]["dcp-operator.io/store"] == store]


def begun(kube: Kube, store: str, besides: str = "") -> Body:
    """Return the validation of a store that has its Job."""

    def found() -> list[Body]:
        return [
            each
            for each in validations(kube, store)
            if each["metadata"]["name"] != besides and (each.get("status") or {}).get("attempts")
        ]

    validating: Body
    (validating,) = until(found, bool, f"a validation of {store}", 90)
    return validating


def ends(kube: Kube, body: Body, **status: Any) -> None:
    async def write() -> None:
        async with Client.connect(kube.kubeconfig) as client:
            where = f"/apis/dcp-operator.io/v1alpha1/namespaces/default/checkpoints/{body['metadata']['name']}/status"
            ended = {"completionTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **status}
            headers = {"Content-Type": "application/merge-patch+json"}
            await client.send("PATCH", where, {"status": ended}, headers)

    asyncio.run(write())


def until_available(kube: Kube, store: str, wanted: tuple[str, str]) -> Body:
    def stands(body: Body) -> bool:
        found = condition(body.get("status") or {}, "Available")
        return bool(found) and (found["status"], found["reason"]) == wanted

    found: Body = until(lambda: kube.get("checkpointstore", store), stands, f"{store} to be {wanted}", 60)
    return found


def test_a_store_is_validated_and_again_when_its_spec_changes(admin: Kube, operator: OperatorProcess) -> None:
    del operator
    admin.apply(store_manifest({"serviceAccountName": "trainer"}))
    until_available(admin, "team", ("Unknown", "Validating"))
    first = begun(admin, "team")
    (job,) = admin.every("job")
    assert job["spec"]["template"]["spec"]["serviceAccountName"] == "trainer"
    ends(admin, first, phase="Succeeded", reason="Validated", checkpoint={"store": FACTS})
    body = until_available(admin, "team", ("True", "Unguarded"))
    assert body["status"]["guards"] == {"create": "Atomic", "replace": "BestEffort"}
    until(lambda: validations(admin, "team"), lambda found: found == [], "its validation to go", 30)
    admin("wait", "--for=condition=Available", "checkpointstore/team", "--timeout=10s")
    (line,) = admin("get", "checkpointstores", "--no-headers").splitlines()
    assert line.split()[:5] == ["team", "s3://bucket/team", "ReadWrite", "True", "Unguarded"]
    admin.apply(store_manifest({"accessMode": "ReadOnly"}))
    second = begun(admin, "team")
    assert second["spec"]["validate"] == {"readOnly": True}
    assert second["metadata"]["name"] != first["metadata"]["name"]
    failure = {"reason": "StorageDenied", "message": "mend the keys"}
    ends(admin, second, phase="Failed", reason="StorageDenied", failure=failure)
    body = until_available(admin, "team", ("False", "StorageDenied"))
    assert body["status"]["validation"] == second["metadata"]["name"]
    assert "mend the keys" in condition(body["status"], "Ready")["message"]
    assert [each["metadata"]["name"] for each in validations(admin, "team")] == [second["metadata"]["name"]]


def test_the_oldest_default_one_wins_until_it_goes(admin: Kube, operator: OperatorProcess) -> None:
    del operator

    def default(name: str) -> str:
        found = condition(admin.get("checkpointstore", name).get("status") or {}, "Default")
        return str(found["reason"]) if found else ""

    admin.apply(store_manifest({"default": True}, name="a-first"))
    until(lambda: default("a-first"), lambda reason: reason == "Oldest", "the default one", 30)
    admin.apply(store_manifest({"default": True}, name="b-second"))
    until(lambda: default("b-second"), lambda reason: reason == "OlderDefault", "the other one", 30)
    admin("delete", "checkpointstore", "a-first")
    until(lambda: default("b-second"), lambda reason: reason == "Oldest", "the default one", 30)
