"""Evictions before a real API server, by kubectl drain and by the Eviction API: what waits for a save, and how long.

etcd and kube-apiserver are real, and so are operator, webhook and TLS. Nothing runs in the pods: the test is kubelet,
and a program here is the agent, with the token of one of them.
"""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml

from benchmarks.bench_channel import administrator
from cluster.places import TREE
from cluster.processes import DIE_WITH_PARENT
from dcp_contract.training import AUDIENCE, CHANNEL_CONFIG_MAP, CHANNEL_FOLDER_ENV
from dcp_operator.kube.channel.admission_review import EVICTION_CONFIGURATION, EVICTION_PATH
from e2e.drains import saves, series
from e2e.kube import ACCOUNT, Body, Kube, KubectlError, api_alone, until
from e2e.operator_process import OperatorProcess
from free_ports import free_port

pytestmark = [pytest.mark.tier("e2e"), pytest.mark.timeout(300)]
PROGRAM: Final = Path(__file__).parent / "fake_training.py"
MANIFEST: Final = TREE / "manifests/cluster-wide/webhook.yaml"
HOLD: Final = {"dcp-operator.io/hold-evictions": "true"}
SAVED: Final = "saved"
"""File by which the training of a test hears that its save may end."""


@pytest.fixture(scope="module")
def plane() -> Iterator[Kube]:
    with api_alone() as kube:
        yield kube.within("")


class Serving(NamedTuple):
    """An operator, and where the API server may ask it."""

    process: OperatorProcess
    url: str


@pytest.fixture(scope="module")
def operator(plane: Kube, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    found = replica(plane, tmp_path_factory.mktemp("operator") / "log")
    with found.process:
        ask(plane, found.url)
        until(lambda: ca_bundle(plane), bool, "the caBundle", 60)
        found.process.wait_in_service()
        yield found


@pytest.fixture
def kube(plane: Kube, operator: Serving, request: pytest.FixtureRequest) -> Kube:
    """kubectl in a namespace whose evictions are put before the operator."""
    del operator
    name = request.node.name.replace("_", "-")[:50].rstrip("-")
    plane.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": HOLD}})
    kube = plane.within(name)
    kube.apply(ACCOUNT)
    return kube


def replica(kube: Kube, log: Path) -> Serving:
    """Return an operator that takes part in the election."""
    port = free_port()
    url = f"https://127.0.0.1:{port}"
    options = ("--channel-port", str(port), "--channel-url", url)
    return Serving(OperatorProcess(kube.kubeconfig, log, options), f"{url}{EVICTION_PATH}")


def ask(kube: Kube, url: str) -> None:
    """Have the API server ask at a URL, as the manifest says, which has no certificates."""
    (configuration,) = yaml.safe_load_all(MANIFEST.read_text())
    configuration["webhooks"][0]["clientConfig"] = {"url": url}
    kube.apply(configuration)


def ca_bundle(kube: Kube) -> str:
    (webhook,) = kube.get("validatingwebhookconfiguration", EVICTION_CONFIGURATION)["webhooks"]
    return str(webhook["clientConfig"].get("caBundle", ""))


def run_pods(kube: Kube, *names: str, node: str = "node-1") -> None:
    """Have pods of the training run on a node."""

    async def go() -> None:
        api = await administrator(kube)
        try:
            for name in names:
                path = f"/api/v1/namespaces/{kube.namespace}/pods"
                labels = {"batch.kubernetes.io/job-name": "train"}
                spec = {"nodeName": node, "terminationGracePeriodSeconds": 0}
                spec |= {"containers": [{"name": "train", "image": "train"}]}
                pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}
                made = await api.send("POST", path, pod)
                await api.send("PUT", f"{path}/{name}/status", {**made, "status": {"phase": "Running"}})
        finally:
            await api.close()

    asyncio.run(go())


@contextmanager
def training(kube: Kube, folder: Path, pod: str, seconds: float = 0, *, told: bool = False) -> Iterator[None]:
    """Have the agent of a pod be connected, which takes so long to save, or until `SAVED` stands in its folder."""
    uid = kube.get("pod", pod)["metadata"]["uid"]
    bound = {"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": uid}
    wanted: Body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
    wanted["spec"] = {"audiences": [AUDIENCE], "expirationSeconds": 3600, "boundObjectRef": bound}
    path = f"/api/v1/namespaces/{kube.namespace}/serviceaccounts/default/token"
    answer = json.loads(kube("create", "--raw", path, "-f", "-", objects=wanted))
    folder.mkdir()
    (folder / "token").write_text(answer["status"]["token"])
    # The certificates are there before the first Save: an agent is to be connected by then.
    published = until(lambda: kube.every("configmap"), lambda found: CHANNEL_CONFIG_MAP in str(found), "it", 30)
    for name, text in next(
        each["data"] for each in published if each["metadata"]["name"] == CHANNEL_CONFIG_MAP
    ).items():
        (folder / name).write_text(text)
    environment = os.environ | {CHANNEL_FOLDER_ENV: str(folder), "SAVE_SECONDS": str(seconds)}
    if told:
        environment |= {"SAVED_WHEN": str(folder / SAVED)}
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen([*DIE_WITH_PARENT, sys.executable, str(PROGRAM)], env=environment, stdout=out)
    try:
        until(log.read_text, lambda text: '"status": 200' in text, "an answer to the agent", 60)
        yield
    finally:
        process.kill()
        process.wait()


def evict(kube: Kube, pod: str) -> str:
    """Ask for an eviction once; return what is said against it, nothing where the pod is evicted."""
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": kube.namespace}}
    try:
        kube("create", "--raw", f"/api/v1/namespaces/{kube.namespace}/pods/{pod}/eviction", "-f", "-", objects=body)
    except KubectlError as error:
        return error.output
    return ""


def names(kube: Kube) -> list[str]:
    return sorted(each["metadata"]["name"] for each in kube.every("pod"))


def node(kube: Kube, name: str) -> None:
    kube.apply({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}})


def test_a_drain_takes_as_long_as_the_save(kube: Kube, tmp_path: Path) -> None:
    node(kube, "node-1")
    kube.apply(series())
    run_pods(kube, "train-0", "train-1")
    with training(kube, tmp_path / "channel", "train-0", seconds=7):
        drain = ("drain", "node-1", "--force", "--pod-selector=batch.kubernetes.io/job-name=train", "--timeout=60s")
        pods_at_commit: list[str] = []

        def watch() -> None:
            until(
                lambda: saves(kube), lambda found: found and found[0].get("status", {}).get("phase") == "Running", "it"
            )
            pods_at_commit.extend(names(kube))

        watching = threading.Thread(target=watch)
        watching.start()
        began = time.monotonic()
        try:
            said = kube(*drain)
        finally:
            kube("uncordon", "node-1")
            watching.join()
        assert 7 < time.monotonic() - began < 30
    assert "node/node-1 drained" in said
    (save,) = saves(kube)
    assert (save["status"]["phase"], save["status"]["target"]["pod"]) == ("Succeeded", "train-0")
    assert pods_at_commit == ["train-0", "train-1"], "while it was being saved"
    assert names(kube) == []


def test_the_eviction_api_is_refused_until_the_commit(kube: Kube, tmp_path: Path) -> None:
    kube.apply(series())
    run_pods(kube, "train-0", "train-1", "train-2")
    with training(kube, tmp_path / "channel", "train-0", told=True):
        first = evict(kube, "train-1")
        assert "saves Job train first" in first
        assert "(TooManyRequests)" in first or "429" in first
        (save,) = saves(kube)
        name = save["metadata"]["name"]
        assert save["metadata"]["labels"]["dcp-operator.io/series"] == "run"
        assert name in first
        # One of the others, and again: they wait for the same Save.
        assert name in evict(kube, "train-2")
        assert name in evict(kube, "train-1")
        assert names(kube) == ["train-0", "train-1", "train-2"]
        (tmp_path / "channel" / SAVED).touch()
        kube.until_phase(name, "Succeeded", seconds=30)
        assert [evict(kube, each) for each in ("train-1", "train-2", "train-0")] == ["", "", ""]
    assert names(kube) == []
    # The training starts anew: its pods are saved again before they go.
    run_pods(kube, "train-3")
    with training(kube, tmp_path / "again", "train-3", seconds=1):
        assert "saves Job train first" in evict(kube, "train-3")
        assert len(saves(kube)) == 2


def test_it_is_allowed_after_the_hold_where_the_save_does_not_end(kube: Kube, tmp_path: Path) -> None:
    kube.apply(series("6s"))
    run_pods(kube, "train-0")
    with training(kube, tmp_path / "channel", "train-0", seconds=1000):
        began = time.monotonic()
        assert "saves Job train first" in evict(kube, "train-0")
        until(lambda: evict(kube, "train-0"), lambda said: not said, "the eviction", 30)
        assert 4 < time.monotonic() - began < 15
    (save,) = saves(kube)
    assert "completionTime" not in save["status"]


def test_a_save_that_fails_lets_it_through(kube: Kube, tmp_path: Path) -> None:
    """Two trainings answer to the target: nobody can say which of them is meant."""
    kube.apply(series())
    run_pods(kube, "train-0", "train-1")
    with (
        training(kube, tmp_path / "channel", "train-0", seconds=0),
        training(kube, tmp_path / "other", "train-1", seconds=0),
    ):
        until(lambda: evict(kube, "train-0"), lambda said: not said, "the eviction", 30)
    (save,) = saves(kube)
    assert save["status"]["reason"] == "TargetAmbiguous"


def test_a_dry_run_shows_what_would_be_and_does_nothing(kube: Kube) -> None:
    node(kube, "node-2")
    kube.apply(series())
    run_pods(kube, "train-0", node="node-2")
    kube("drain", "node-2", "--force", "--dry-run=server", "--timeout=20s")
    assert saves(kube) == []
    assert names(kube) == ["train-0"]


def test_other_pods_and_other_namespaces_are_not_asked_about(kube: Kube, plane: Kube) -> None:
    kube.apply(series())
    run_pods(kube, "train-0")
    kube("label", "pod", "train-0", "batch.kubernetes.io/job-name-")
    assert evict(kube, "train-0") == ""
    run_pods(kube, "train-1")
    plane("label", "namespace", kube.namespace, "dcp-operator.io/hold-evictions-")
    until(lambda: evict(kube, "train-1"), lambda said: not said, "the API server's new view of the namespace", 20)
    assert names(kube) == []


@pytest.mark.slow("agents have a minute to come to an operator that has just started")
def test_without_an_agent_it_is_let_through_at_once(kube: Kube) -> None:
    kube.apply(series())
    run_pods(kube, "train-0")
    until(lambda: evict(kube, "train-0"), lambda said: not said, "the eviction", 90)
    assert [each["status"]["reason"] for each in saves(kube)] == ["TargetNotListening"]
    # The operator has been there for a minute now: the first eviction of another pod is not even refused once.
    run_pods(kube, "train-1")
    until(lambda: kube.get("pod", "train-1"), newer_than(saves(kube)[0]), "a later second", 5)
    assert evict(kube, "train-1") == ""
    assert len(saves(kube)) == 2


def newer_than(save: Body) -> Any:
    began = save["metadata"]["creationTimestamp"]
    return lambda pod: pod["metadata"]["creationTimestamp"] > began


def test_a_replica_that_stands_by_answers_in_place_of_the_leader(
    plane: Kube, kube: Kube, operator: Serving, tmp_path: Path
) -> None:
    kube.apply(series())
    run_pods(kube, "train-0")
    before = ca_bundle(plane)
    standby = replica(plane, tmp_path / "standby")
    with training(kube, tmp_path / "channel", "train-0", seconds=3), standby.process:
        until(lambda: ca_bundle(plane), lambda found: found != before, "its certificate", 60)
        try:
            # To apply the manifest anew leaves the certificates alone.
            ask(plane, standby.url)
            assert ca_bundle(plane) != before
            said = until(lambda: evict(kube, "train-0"), bool, "the API server's new view of the webhook", 20)
            assert "saves Job train first" in said
            assert standby.process.counter("dcp_leading") == 0
            assert standby.process.counter("dcp_evictions_total", answer="held") >= 1
            until(lambda: evict(kube, "train-0"), lambda said: not said, "the eviction", 30)
        finally:
            ask(plane, operator.url)
    assert [each["status"]["phase"] for each in saves(kube)] == ["Succeeded"]


def test_with_the_operator_away_it_is_let_through(kube: Kube, operator: Serving, tmp_path: Path) -> None:
    kube.apply(series())
    run_pods(kube, "train-0", "train-1")
    with training(kube, tmp_path / "channel", "train-0", seconds=1000):
        assert "saves Job train first" in until(lambda: evict(kube, "train-0"), bool, "the first eviction", 20)
        operator.process.kill()
        try:
            began = time.monotonic()
            assert evict(kube, "train-0") == ""
            assert time.monotonic() - began < 5
            assert names(kube) == ["train-1"]
        finally:
            operator.process.start()
