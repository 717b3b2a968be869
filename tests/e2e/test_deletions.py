"""Checkpoints that are deleted with their data: the operator as its own account, on a real API server.

etcd, kube-apiserver and the operator are real, and so are the account's roles and the admission policies. Where a
namespace is deleted, so are the controllers. The test plays the workers by writing how a Checkpoint has ended.
"""

import asyncio
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest

from benchmarks.operator_load import Client, checkpoint
from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from dcp_operator.api.naming import DATA_FINALIZER, data_removal_name
from e2e.api_proxy import ApiProxy, Kill, proxy
from e2e.kube import Body, Kube, KubectlError, condition, until
from e2e.operator_process import OperatorProcess, account_of_operator

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(600)]

MANY = 50
SAVE = "a" * 32


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with api_server() as plane:
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


def save(name: str, namespace: str = "default", **timeouts: int) -> Body:
    body = checkpoint(name, namespace)
    body["spec"] |= {"deletionPolicy": "Delete", "timeouts": timeouts}
    return body


def begun(body: Body) -> bool:
    return bool((body.get("status") or {}).get("attempts"))


def held(body: Body) -> bool:
    return DATA_FINALIZER in (body["metadata"].get("finalizers") or ())


def ends(kube: Kube, names: list[str], once: Callable[[Body], bool] = begun, **status: Any) -> None:
    """Have Checkpoints end, once they are as said: an attempt of each was made."""

    async def write() -> None:
        async with Client.connect(kube.kubeconfig) as client:
            for name in names:
                until(partial(kube.get, "checkpoint", name), once, f"an attempt of {name}", 60)
                ended = {"phase": "Succeeded", "completionTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"}
                where = f"/apis/dcp-operator.io/v1alpha1/namespaces/{kube.namespace}/checkpoints/{name}/status"
                headers = {"Content-Type": "application/merge-patch+json"}
                await client.send("PATCH", where, {"status": {**ended, **status}}, headers)

    asyncio.run(write())


def saved(kube: Kube, names: list[str]) -> None:
    ends(kube, names, reason="Saved", checkpoint={"url": "s3://bucket/x", "saveId": SAVE})


def there(kube: Kube) -> list[str]:
    return sorted(each["metadata"]["name"] for each in kube.every("checkpoint"))


def test_what_it_saved_is_removed_and_then_it_goes(admin: Kube, operator: OperatorProcess) -> None:
    del operator
    admin.apply(save("gone"))
    saved(admin, ["gone"])
    body = admin.get("checkpoint", "gone")
    assert body["metadata"]["finalizers"] == [DATA_FINALIZER]
    admin("delete", "checkpoint", "gone", "--wait=false")
    removal = data_removal_name("gone", body["metadata"]["uid"])
    made = until(lambda: admin.every("checkpoint"), lambda found: len(found) == 2, "the Delete", 30)
    assert {each["metadata"]["name"]: each["spec"]["operation"] for each in made} == {"gone": "Save", removal: "Delete"}
    admin.until_status("gone", lambda status: condition(status, "Deleting"), 30)
    ends(admin, [removal], reason="Deleted", warnings=["s3://bucket keeps versions"])
    until(lambda: there(admin), lambda found: found == [], "the end of both", 30)
    (event,) = [each for each in admin.heard("gone", "DataRemoved") if each["reason"] == "DataRemoved"]
    assert event["message"].endswith("gone is removed. s3://bucket keeps versions.")


@pytest.mark.slow("fifty Checkpoints wait until their time is over")
def test_an_unreachable_store_keeps_nothing_beyond_the_bound(admin: Kube, operator: OperatorProcess) -> None:
    """No worker comes to anything. Each goes in time, with an event of its own; until then its status says so."""
    names = [f"bound-{number}" for number in range(MANY)]
    admin.apply(*(save(name, deletionSeconds=20) for name in names))
    saved(admin, names)
    admin("delete", "checkpoint", *names, "--wait=false")
    # The last one: kubectl deletes one after the other, so that the first may be gone by now.
    status = admin.until_status(names[-1], lambda status: condition(status, "Deleting"), 20)
    assert status["phase"] == "Succeeded"
    until(lambda: there(admin), lambda found: found == [], "the end of all", 60)
    for name in names:
        (event,) = [each for each in admin.heard(name, "DataKept") if each["reason"] == "DataKept"]
        assert "stay: they were not removed within 20s" in event["message"]
    assert operator.counter("dcp_deletions_total", data="kept") == MANY


@pytest.mark.slow("fifty Checkpoints are saved and go with their namespace")
def test_a_namespace_goes_at_once_and_one_event_names_what_stays(admin: Kube, operator: OperatorProcess) -> None:
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team"}})
    team = admin.within("team")
    until(lambda: admin.within("team").every("serviceaccount"), bool, "the account of pods", 30)
    names = [f"step-{number}" for number in range(MANY)]
    # Without Jobs: their pods, which no kubelet ends, would hold up the namespace.
    bodies = [save(name, "team") for name in names]
    for body in bodies:
        body["spec"]["suspend"] = True
    team.apply(*bodies)
    ends(team, names, held, attempts=1, reason="Saved", checkpoint={"url": "s3://bucket/x", "saveId": SAVE})
    admin("delete", "namespace", "team", "--timeout=30s", timeout=60)
    found = [each for each in admin.every("events") if each["involvedObject"]["kind"] == "Namespace"]
    (event,) = [each for each in found if each["reason"] == "DataKept"]
    assert event["involvedObject"]["name"] == "team"
    assert event["message"].startswith(f"What {MANY} Checkpoints with deletionPolicy Delete saved stays")
    assert "s3://bucket/team/step-1" in event["message"]
    assert operator.counter("dcp_deletions_total", data="namespace") == MANY
    log = operator.log.read_text()
    assert all(f"the data at s3://bucket/team/{name} stay" in log for name in names)


@pytest.mark.alone
@pytest.mark.slow("the operator starts anew after each of its writes")
@pytest.mark.parametrize("side", ["before", "after"])
def test_killed_at_every_write_of_a_deletion_it_ends_the_same(
    side: Literal["before", "after"], admin: Kube, tmp_path: Path
) -> None:
    """What was saved is removed by one Delete, and the Checkpoint is there until it is done."""
    with proxy(admin.kubeconfig) as between:
        config = between.kubeconfig(tmp_path / "kubeconfig")
        with OperatorProcess(config, tmp_path / "operator.log") as operator:
            number = 0
            while _killed_once(number := number + 1, side, admin, between, operator):
                pass
    # The Delete, its attempt and its status; the condition, the event and the finalizer.
    assert number > 6


def _killed_once(number: int, side: Any, admin: Kube, between: ApiProxy, operator: OperatorProcess) -> bool:
    name = f"killed-{side}-{number}"
    if not operator.running():
        operator.start()
    admin.apply(save(name))
    saved(admin, [name])
    removal = data_removal_name(name, admin.get("checkpoint", name)["metadata"]["uid"])
    between.writes.clear()
    kill = between.kill = Kill(number, side, operator.kill)
    admin("delete", "checkpoint", name, "--wait=false")

    def look() -> list[str]:
        if kill.ended() and not operator.running():
            operator.start()
        return there(admin)

    until(look, lambda found: removal in found, "the Delete", 60)
    assert name in there(admin), "it does not go before its data"
    first = admin.get("checkpoint", removal)["metadata"]["uid"]
    found = until(lambda: look() and admin.get("checkpoint", removal), begun, "the attempt of the Delete", 60)
    assert found["metadata"]["uid"] == first
    ends(admin, [removal], reason="Deleted")
    until(look, lambda found: found == [], "the end of both", 60)
    assert [each["reason"] for each in admin.events(name)].count("DataRemoved") == 1
    return kill.ended()


PATCHES: list[tuple[Any, str]] = [
    ({"metadata": {"finalizers": [DATA_FINALIZER]}}, ""),
    ({"metadata": {"finalizers": None}}, ""),
    ({"spec": {"deletionPolicy": "Retain"}}, ""),
    ({"spec": {"deletionPolicy": "Delete"}}, "no field of a spec but deletionPolicy, to Retain"),
    ({"spec": {"suspend": True}}, "no field of a spec but deletionPolicy, to Retain"),
    ({"spec": {"runId": "2"}}, "no field of a spec but deletionPolicy, to Retain"),
    ({"metadata": {"finalizers": ["a.b/c"]}}, f"no finalizer but {DATA_FINALIZER}"),
    ({"metadata": {"labels": {"a": "b"}}}, "neither labels nor annotations nor owners"),
    ({"metadata": {"annotations": {"a": "b"}}}, "neither labels nor annotations nor owners"),
]


@pytest.mark.adversary
def test_the_operators_account_may_change_the_finalizer_and_nothing_else(admin: Kube, account: Kube) -> None:
    body = checkpoint("patched", "default")
    body["spec"]["suspend"] = False
    admin.apply(body)

    def refusal(patch: Any) -> str:
        try:
            account("patch", "checkpoint", "patched", "--type=merge", "-p", json.dumps(patch))
        except KubectlError as error:
            return error.output
        return ""

    until(lambda: refusal({"spec": {"suspend": True}}), lambda said: "changes no field" in said, "the policy", 60)
    for patch, said in PATCHES:
        found = refusal(patch)
        assert said in found
        assert bool(said) == bool(found), (patch, found)
    admin("delete", "checkpoint", "patched")
