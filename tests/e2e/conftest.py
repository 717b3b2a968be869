"""The cluster that `make cluster` brought up, with the operator installed as a user installs it."""

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cluster.facts import Facts
from cluster.locks import exclusive
from cluster.places import TREE, run_dir
from e2e.kube import Body, Kube, rolled_out
from e2e.side_by_side import SideBySide

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the slow tests first, so that none is left over when the others have ended."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> SideBySide:
    """Say what runs beside what, where there are processes for it."""
    return SideBySide(config, log)


@pytest.fixture(scope="session")
def facts() -> Facts:
    return Facts.read()


@pytest.fixture(scope="session")
def admin(facts: Facts) -> Kube:
    return Kube(Path(facts.kubeconfig))


def kustomization(facts: Facts, factory: pytest.TempPathFactory, base: str = "manifests", namespace: str = "") -> Path:
    """Make a folder for `kubectl apply -k`: the manifests, our images in place of the published ones."""
    folder = factory.mktemp("install")
    container = {"name": "operator", "env": [{"name": "DCP_WORKER_IMAGE", "value": facts.images["examples"]}]}
    worker = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "dcp-operator"},
        "spec": {"template": {"spec": {"containers": [container]}}},
    }
    name, _, tag = facts.images["operator"].rpartition(":")
    up = "../" * len(folder.parts[1:])
    progress = "manifests/components/progress" if base == "manifests" else "manifests/components/progress-namespaced"
    made: Body = {
        "resources": [f"{up}{str(TREE / base).lstrip('/')}"],
        "components": [f"{up}{str(TREE / progress).lstrip('/')}"],
        "images": [{"name": "registry.invalid/dcp-operator", "newName": name, "newTag": tag}],
        "patches": [{"target": {"kind": "Deployment"}, "patch": json.dumps(worker)}],
    }
    (folder / "kustomization.yaml").write_text(json.dumps(made | ({"namespace": namespace} if namespace else {})))
    return folder


@pytest.fixture(scope="session")
def operator(facts: Facts, admin: Kube, tmp_path_factory: pytest.TempPathFactory) -> Kube:
    """Install with `kubectl apply -k`; return kubectl in the operator's namespace."""
    kube = admin.within("dcp-operator")
    # Each process of a run installs: the first one does, the others find it done.
    with exclusive(run_dir() / "install.lock"):
        admin("apply", "-k", str(kustomization(facts, tmp_path_factory)))
        rolled_out(kube)
    return kube


@pytest.fixture
def kube(admin: Kube, operator: Kube, facts: Facts) -> Iterator[Kube]:
    """kubectl in a fresh namespace, where pods have to be restricted and the store's Secret lies."""
    del operator
    name = f"test-{uuid.uuid4().hex[:8]}"
    admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}})
    kube = admin.within(name)
    kube.apply(secret(facts))
    yield kube
    admin("delete", "namespace", name, "--wait=false")


def secret(facts: Facts) -> Body:
    data = {"AWS_ACCESS_KEY_ID": facts.s3.access_key, "AWS_SECRET_ACCESS_KEY": facts.s3.secret_key}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s3"}, "stringData": data}
