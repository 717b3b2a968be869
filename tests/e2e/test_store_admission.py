"""What an API server refuses of a store, by CEL: the table of which the operator refuses each row as well.

etcd and kube-apiserver are real; the operator isn't there at all.
"""

import json
from collections.abc import Iterator

import pytest

from cluster.controlplane import ControlPlane, api_server
from cluster.places import TREE
from cluster.processes import CommandError, until
from store_scenes import BAD, GOOD, Changes, store_manifest

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def plane() -> Iterator[ControlPlane]:
    with api_server(controllers=False) as found:
        found.kubectl("apply", "-k", str(TREE / "manifests/api"))
        until(lambda: not tried(found, {}), "the kind")
        yield found


def tried(plane: ControlPlane, changes: Changes) -> str:
    """Return what the API server has against a store; nothing where it would take it."""
    try:
        plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=json.dumps(store_manifest(changes)))
    except CommandError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("changes", GOOD.values(), ids=GOOD)
def test_what_is_taken(plane: ControlPlane, changes: Changes) -> None:
    assert not tried(plane, changes)


@pytest.mark.adversary
@pytest.mark.parametrize(("changes", "field", "said"), BAD.values(), ids=BAD)
def test_what_is_refused(plane: ControlPlane, changes: Changes, field: str, said: str) -> None:
    answer = tried(plane, changes)
    assert field in answer, answer
    assert said in answer
    assert "hunter2" not in answer
