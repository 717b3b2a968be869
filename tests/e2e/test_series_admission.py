"""What an API server refuses of a series, by CEL: the table of which the operator refuses each row as well.

etcd and kube-apiserver are real; the operator isn't there at all.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from cluster.processes import CommandError, until
from scenes import manifest
from series_scenes import BAD, GOOD, Changes, series_manifest

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]


@dataclass
class Api:
    """The API server, asked by kubectl."""

    plane: ControlPlane

    def tried(self, changes: Changes) -> str:
        """Return what the API server has against a series; nothing where it would take it."""
        return self.tried_body(series_manifest(changes))

    def tried_body(self, body: dict[str, Any]) -> str:
        """Return the same of any object."""
        body["metadata"] = {"name": body["metadata"]["name"]}
        try:
            self.plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
        except CommandError as error:
            return str(error)
        return ""


@pytest.fixture(scope="module")
def api() -> Iterator[Api]:
    with api_server(controllers=False) as plane:
        plane.kubectl("apply", "-k", str(TREE / "manifests/api"))
        found = Api(plane)
        until(lambda: "plain text" in found.tried(BAD["a secret in plain text"][0]), "the policy of pods")
        until(lambda: "gone with the pod" in found.tried(BAD["a path that no volume holds"][0]), "the policy of pods")
        yield found


@pytest.mark.adversary
@pytest.mark.parametrize(("changes", "field", "said"), BAD.values(), ids=BAD)
def test_what_the_operator_refuses_is_refused_before_it_is_stored(
    api: Api, changes: Changes, field: str, said: str
) -> None:
    message = api.tried(changes)
    assert field in message, message
    assert said in message
    assert "hunter2" not in message


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_what_the_operator_takes_is_taken(api: Api, changes: Changes) -> None:
    assert api.tried(changes) == ""


LATEST = {"spec.operation": "Load", "spec.storage": {"latestOf": {"series": "nightly"}}}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, ""),
        ({"spec.storage.options": {"region": "eu"}}, ""),
        ({"spec.storage.url": "s3://bucket/x"}, "has url and latestOf; write one of them"),
        ({"spec.storage": {}}, "is missing; write one such as s3://bucket/run/step-1000"),
        ({"spec.operation": "Save"}, "is for a Load or a Verify; write url"),
        ({"spec.storage.latestOf": {"series": "a.b"}}, "spec.storage.latestOf.series"),
    ],
)
def test_what_reads_the_latest_of_a_series(api: Api, changes: Changes, said: str) -> None:
    message = api.tried_body(manifest({**LATEST, **changes}))
    assert said in message
    assert bool(said) == bool(message)
