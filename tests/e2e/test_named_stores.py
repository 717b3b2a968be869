"""Checkpoints that name a store: the CRD's rules, the policy of stores that are ReadOnly, and one in an operator.

etcd and kube-apiserver are real, and so is the operator of the last test, as its own account. The test plays the
workers by writing how a Checkpoint has ended.
"""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest

from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from cluster.processes import CommandError, until
from e2e.kube import Kube
from e2e.kube import until as until_seen
from e2e.operator_process import OperatorProcess, account_of_operator
from e2e.test_admission import COLLECTION, Api
from named_store_scenes import IN_STORE, REFUSED
from scenes import manifest
from store_scenes import store_manifest

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]

VERIFY = {"spec.operation": "Verify", "spec.workload": None, "spec.workers": None}
COPY = {**VERIFY, "spec.operation": "Copy", "spec.copy": {"from": {"url": "s3://from/here"}}}


def of(changes: dict[str, Any]) -> dict[str, Any]:
    body = manifest({"spec.storage": IN_STORE, **changes})
    body["metadata"] = {"name": body["metadata"]["name"]}
    return body


def in_store(name: str, changes: dict[str, Any] | None = None) -> dict[str, Any]:
    return of({"spec.storage": {"store": {"name": name}, "path": "run/step-1000"}, **(changes or {})})


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_server(controllers=False) as plane:
        plane.kubectl("apply", "-k", str(TREE / "manifests/api"))
        for name, mode in (("open", "ReadWrite"), ("shut", "ReadOnly"), ("shut-too", "ReadOnly")):
            body = store_manifest({"accessMode": mode}, name=name)
            until(partial(_applied, plane, body), "the kind of stores")
        found = Api(plane)
        until(lambda: "is ReadOnly" in found.tried(in_store("shut")), "the policy of stores")
        yield found


def _applied(plane: ControlPlane, body: dict[str, Any]) -> bool:
    """Say whether a store was taken: a kind is served a moment after its definition."""
    try:
        plane.kubectl("apply", "-f", "-", stdin=json.dumps(body))
    except CommandError:
        return False
    return True


@pytest.mark.adversary
@pytest.mark.parametrize(("storage", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_the_operator_refuses_is_refused_before_it_is_stored(
    api: Api, storage: dict[str, Any], problem: str
) -> None:
    field, _, said = problem.partition(": ")
    message = api.tried(of({**VERIFY, "spec.storage": storage}))
    assert field in message, message
    assert said in message


@pytest.mark.parametrize(
    ("body", "refused"),
    [
        pytest.param(in_store("shut"), True, id="a Save"),
        pytest.param(in_store("shut-too", COPY), True, id="a Copy"),
        pytest.param(in_store("shut", {**VERIFY, "spec.operation": "Delete"}), True, id="a Delete"),
        pytest.param(in_store("shut", VERIFY), False, id="a Verify"),
        pytest.param(in_store("shut", {"spec.operation": "Load"}), False, id="a Load"),
        pytest.param(in_store("open"), False, id="another store"),
        pytest.param(in_store("none-yet"), False, id="a store that is not there"),
        pytest.param(of({"spec.storage": {"path": "a/b"}}), False, id="the default one is the operator's to say"),
        pytest.param(of({"spec.storage": {"url": "s3://bucket/a"}}), False, id="a URL"),
    ],
)
def test_a_store_that_is_read_only_takes_nothing_that_changes_it(
    api: Api, body: dict[str, Any], *, refused: bool
) -> None:
    message = api.tried(body)
    assert ("is ReadOnly; write another one" in message) is refused, message
    assert bool(message) is refused


def test_a_status_that_is_written_over_a_looked_up_body_leaves_the_spec_as_it_was(api: Api) -> None:
    """The operator works with the URL in the spec; what it sends along with a status is not taken."""
    _, stored = api("POST", COLLECTION, in_store("open"))
    place = {"name": "open", "url": "s3://bucket/team/run/step-1000", "options": {"region": "eu"}}
    sent = {**stored, "spec": {**stored["spec"], "storage": {"url": place["url"]}}}
    sent["status"] = {"phase": "Pending", "store": place}
    code, answer = api("PUT", f"{COLLECTION}/{stored['metadata']['name']}/status", sent)
    assert code == HTTPStatus.OK, answer
    assert (answer["spec"], answer["status"]["store"]) == (stored["spec"], place)


def test_a_place_in_a_store_is_immutable(api: Api) -> None:
    body = in_store("open")
    body["metadata"]["name"] = "still"
    _, stored = api("POST", COLLECTION, body)
    stored["spec"]["storage"]["path"] = "run/step-2000"
    code, answer = api("PUT", f"{COLLECTION}/still", stored)
    assert code != HTTPStatus.OK
    assert "spec.storage.path: Forbidden: is immutable" in answer["message"]


def ends(kube: Kube, name: str, **status: Any) -> None:
    """Have a Checkpoint end, once an attempt of it was made."""
    until_seen(lambda: kube.get("checkpoint", name), lambda body: (body.get("status") or {}).get("attempts"), name, 120)
    ended = {"phase": "Succeeded", "completionTime": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", **status}
    kube("patch", "checkpoint", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": ended}))


def validated(kube: Kube, store: str, generation: int) -> None:
    """Have the validation of a store of that generation succeed."""
    body = until_seen(
        lambda: kube.get("checkpointstore", store),
        lambda body: body["status"].get("validation") and body["status"].get("observedGeneration") == generation,
        "a validation",
        120,
    )
    ends(kube, body["status"]["validation"], reason="Validated", checkpoint={"store": {"createGuard": "Atomic"}})


def test_a_save_waits_for_its_store_and_its_data_are_removed_where_it_saved(api: Api, tmp_path: Path) -> None:
    admin = Kube(api.plane.kubeconfig(), "default")
    account = account_of_operator(api.plane, admin, tmp_path)
    admin("apply", "-f", str(TREE / "manifests/cluster-wide/rbac.yaml"))
    body = in_store("late", {"spec.deletionPolicy": "Delete"})
    body["metadata"]["name"] = "waits"
    body["spec"]["storage"] = {**body["spec"]["storage"], "path": "run/late"}
    with OperatorProcess(account.kubeconfig, tmp_path / "operator.log") as operator:
        operator.wait_in_service()
        admin.apply(body)
        admin.until_status("waits", lambda status: status.get("reason") == "StoreNotFound", 120)
        admin.apply(store_manifest(name="late"))
        admin.until_status("waits", lambda status: status.get("reason") == "StoreNotAvailable", 120)
        validated(admin, "late", 1)
        status = admin.until_status("waits", lambda status: status.get("attempts"), 120)
        url = "s3://bucket/team/run/late"
        assert status["store"] == {"name": "late", "url": url}
        ends(admin, "waits", reason="Saved", checkpoint={"url": url, "saveId": "a" * 32})
        admin.apply(store_manifest({"url": "s3://elsewhere"}, name="late"))
        admin("delete", "checkpoint", "waits", "--wait=false")
        removes = until_seen(
            lambda: [each for each in admin.every("checkpoint") if each["spec"]["operation"] == "Delete"],
            bool,
            "the Delete of what it saved",
            120,
        )
        assert [each["spec"]["storage"] for each in removes] == [{"url": url}]
        # What was written is what was written.
        assert admin.get("checkpoint", "waits")["spec"]["storage"] == body["spec"]["storage"]
