"""Checkpoints that name a store, before they are stored: the CRD's rules, and the policy of stores that are ReadOnly.

etcd and kube-apiserver are real; the operator isn't there at all.
"""

import json
from collections.abc import Iterator
from functools import partial
from http import HTTPStatus
from typing import Any

import pytest

from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from cluster.processes import CommandError, until
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
