"""A real training of two pods, and `kubectl drain` of its node: it saves before its pods are evicted."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from cluster.facts import Facts
from e2e.drains import SELECTOR, drain, saves, series
from e2e.kube import Body, Kube, condition, rolled_out, until
from e2e.objects import checkpoint
from e2e.test_running_training import losses, pods, training

pytestmark = [
    pytest.mark.tier("e2e"),
    pytest.mark.alone,
    pytest.mark.timeout(500),
    pytest.mark.slow("a training of two pods imports torch, twice"),
]


@contextmanager
def evicted(kube: Kube) -> Iterator[dict[str, datetime]]:
    """Note, while the context lasts, by pod of the training when somebody had it deleted, or when it was seen gone."""
    found: dict[str, datetime] = {}
    over = threading.Event()

    def look() -> None:
        known: set[str] = set()
        while not over.wait(0.1):
            there = {each["metadata"]["name"]: each["metadata"] for each in kube.every("pod", SELECTOR)}
            for name in known - there.keys():
                found.setdefault(name, datetime.now(UTC))
            known |= there.keys()
            for name, metadata in there.items():
                if deadline := metadata.get("deletionTimestamp"):
                    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds", 0))
                    found.setdefault(name, datetime.fromisoformat(deadline) - grace)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield found
    finally:
        over.set()
        looking.join()


def trains(kube: Kube, pod: str, beyond: int = 0) -> int:
    """Wait until the training has gone beyond a step; return the step."""
    until(lambda: kube.get("pod", pod)["status"]["phase"], lambda phase: phase != "Pending", f"the start of {pod}", 120)
    found: dict[int, str] = until(
        lambda: losses(kube.log(pod)), lambda seen: max(seen, default=0) > beyond, f"step {beyond + 1}", 120
    )
    return max(found)


def begin(kube: Kube, admin: Kube, facts: Facts) -> str:
    """Have a training run whose evictions wait for a save; return the pod of rank 0."""
    admin("label", "namespace", kube.namespace, "dcp-operator.io/hold-evictions=true")
    kube.apply(series("3m"))
    held = until(
        lambda: condition(kube.get("checkpointseries", "run").get("status") or {}, "EvictionsHeld"),
        lambda found: found.get("status") == "True",
        "the operator's word that evictions are held",
        90,
    )
    assert held["message"] == "An eviction of a pod of Job train waits for a save, 3m at most."
    # The certificates come with the series, before any Save.
    until(lambda: kube.every("configmap"), lambda found: "dcp-operator-ca" in str(found), "the ConfigMap", 30)
    kube.apply(*(longer(each) for each in training(facts, kube, "train")))
    (first,) = until(lambda: pods(kube, "train", 0), bool, "a pod", 30)
    # Its agent is connected once it has saved. A training that is evicted before that has hardly begun.
    kube.apply(checkpoint("early", {"operation": "Save", "target": {"kind": "Job", "name": "train"}}))
    kube.until_phase("early", "Succeeded", seconds=240)
    return str(first)


def drained(kube: Kube) -> tuple[Body, dict[str, datetime]]:
    """Drain the node of the training; return the status of the Save before that, and when its pods were evicted."""
    with evicted(kube) as gone:
        assert drain(kube, 200) < 180
    (save,) = saves(kube)
    return save["status"], gone


def check(status: Body, gone: dict[str, datetime], before: int) -> None:
    """Check that both pods were there until the commit of a later step."""
    assert status["phase"] == "Succeeded", status
    assert status["checkpoint"]["step"] > before
    assert status["checkpoint"]["worldSize"] == 2
    committed = datetime.fromisoformat(status["completionTime"])
    assert len(gone) == 2, gone
    assert all(when >= committed for when in gone.values()), (gone, committed)


def test_a_drain_waits_until_the_training_has_saved(kube: Kube, admin: Kube, facts: Facts) -> None:
    first = begin(kube, admin, facts)
    before = trains(kube, first)
    status, gone = drained(kube)
    check(status, gone, before)
    # The next pods go on from there, or from what the training saved on SIGTERM.
    second = until(lambda: [each for each in pods(kube, "train", 0) if each != first], bool, "another pod", 120)[-1]
    resumed = trains(kube, second)
    assert resumed > status["checkpoint"]["step"]
    assert min(losses(kube.log(second))) > status["checkpoint"]["step"]


def test_a_drain_that_takes_the_leader_along_waits_for_the_save_too(
    kube: Kube, admin: Kube, operator: Kube, facts: Facts
) -> None:
    """The replica that stands by holds the eviction, takes over, and has the training save."""
    first = begin(kube, admin, facts)
    before = trains(kube, first)
    holder = operator("get", "lease", "dcp-operator", "-o", "jsonpath={.spec.holderIdentity}")
    leader = holder.partition("_")[0]
    operator("delete", "pod", leader, "--grace-period=0", "--force", "--wait=false")
    try:
        status, gone = drained(kube)
    finally:
        rolled_out(operator)
    check(status, gone, before)
    assert operator("get", "lease", "dcp-operator", "-o", "jsonpath={.spec.holderIdentity}") != holder


def longer(body: Body) -> Body:
    """Return a Job that trains for longer than a drain takes."""
    if body["kind"] == "Job":
        (container,) = body["spec"]["template"]["spec"]["containers"]
        container["args"][0] = "--steps=5000"
    return body
