"""A real training of two pods in the cluster: asked for a save, stopped by a deletion, resumed, with equal losses."""

import re
from datetime import UTC, datetime

import pytest

from cluster.facts import Facts
from e2e.kube import Body, Kube, until
from e2e.test_manifest_examples import documents

pytestmark = [
    pytest.mark.tier("e2e"),
    pytest.mark.alone,
    pytest.mark.timeout(500),
    pytest.mark.slow("three trainings import torch"),
]
STEPS, STEP_SECONDS = 300, 0.2


def training(facts: Facts, kube: Kube, name: str) -> list[Body]:
    """Return the example's Job under a name, with a prefix of its own and so many steps."""
    found = documents("training.yaml", facts, f"{kube.namespace}/{name}")
    service, job = found
    service["metadata"]["name"] = job["metadata"]["name"] = name
    service["spec"]["selector"] = {"batch.kubernetes.io/job-name": name}
    pod = job["spec"]["template"]["spec"]
    pod["subdomain"] = name
    # As Kubernetes has it by default: a stop has to be in time for it.
    pod["terminationGracePeriodSeconds"] = 30
    container = pod["containers"][0]
    container["env"][0]["value"] = f"{name}-0.{name}"
    endpoint = container["args"][-1]
    container["args"] = [f"--steps={STEPS}", f"--step-seconds={STEP_SECONDS}", endpoint]
    return found


def losses(text: str) -> dict[int, str]:
    """Return the loss of each step, to the last bit."""
    return {int(step): bits for step, bits in re.findall(r"^step (\d+) loss \S+ (\S+)$", text, re.MULTILINE)}


def times(kube: Kube, pod: str) -> list[datetime]:
    """Return when each step ended, the first one first."""
    found = re.findall(r"^(\S+)Z step \d+ loss", kube.log(pod, "--timestamps"), re.MULTILINE)
    return [datetime.fromisoformat(each[:26]).replace(tzinfo=UTC) for each in found]


def pods(kube: Kube, job: str, index: int) -> list[str]:
    """Return the pods of an index that are not being deleted, the newest one last."""
    selector = f"batch.kubernetes.io/job-name={job},batch.kubernetes.io/job-completion-index={index}"
    found = [each for each in kube.every("pod", selector) if "deletionTimestamp" not in each["metadata"]]
    found.sort(key=lambda each: each["metadata"]["creationTimestamp"])
    return [each["metadata"]["name"] for each in found]


def test_a_training_is_saved_stopped_and_resumed_as_if_nothing_had_happened(kube: Kube, facts: Facts) -> None:
    kube.apply(*documents("training-save.yaml", facts, kube.namespace))
    until(lambda: kube.every("configmap"), lambda found: "dcp-operator-ca" in str(found), "the ConfigMap", 30)
    # The training saves under a prefix of the test's own.
    kube.apply(*documents("training-series.yaml", facts, f"{kube.namespace}/train"))
    kube.apply(*training(facts, kube, "train"), *training(facts, kube, "whole"))
    status = kube.until_phase("training-save", "Succeeded", "Failed", seconds=180)
    assert status["phase"] == "Succeeded", status
    step = status["checkpoint"]["step"]
    assert status["checkpoint"]["url"].endswith(f"/train/training/step-{step}")
    assert status["checkpoint"]["worldSize"] == 2
    assert status["blockedSeconds"] < 5
    # It listens now, so that the next request is an answer to a poll that is held for up to 25 s.
    (first,) = pods(kube, "train", 0)
    kube.apply({**documents("training-save.yaml", facts, kube.namespace)[0], "metadata": {"name": "at-once"}})
    applied = datetime.now(UTC)
    at_once = kube.until_phase("at-once", "Succeeded", "Failed", seconds=60)["checkpoint"]["step"]
    before = [at for at in times(kube, first) if at < applied]
    print(f"applied after step {len(before)}, saved step {at_once}")
    assert at_once - len(before) < 5 / STEP_SECONDS
    # SIGTERM to one pod: both ranks save the same step and leave, and their successors go on from it.
    seen = kube.log(first)
    kube("delete", "pod", *pods(kube, "train", 1), "--wait=false")
    second = until(lambda: [each for each in pods(kube, "train", 0) if each != first], bool, "another pod", 90)[-1]
    ended = kube.get("pod", first)["status"]["containerStatuses"][0]["state"]["terminated"]
    assert ended["exitCode"] == 143
    seen += kube.log(first)
    (stopped,) = {int(found) for found in re.findall(r"training ends after step (\d+)", seen)}
    assert max(losses(seen)) == stopped
    kube("wait", "--for=condition=Complete", "job/train", "job/whole", "--timeout=240s", timeout=250)
    resumed = losses(kube.log(second))
    assert min(resumed) == stopped + 1
    assert losses(seen) | resumed == losses(kube.log(pods(kube, "whole", 0)[0]))
    assert max(resumed) == STEPS
    # The series has it all, asked for or not, and what it has last can be loaded.
    until(lambda: series_steps(kube), lambda found: {stopped, STEPS} <= found, "what training saved by itself", 60)
    kube.apply(*documents("training-load.yaml", facts, kube.namespace))
    loaded = kube.until_phase("training-load", "Succeeded", seconds=120)
    assert loaded["checkpoint"]["step"] == STEPS


def series_steps(kube: Kube) -> set[int]:
    """Return the steps that the series lists as saved."""
    found = [each.get("status") or {} for each in kube.every("checkpoint", "dcp-operator.io/series=train")]
    return {each["checkpoint"]["step"] for each in found if each.get("phase") == "Succeeded"}
