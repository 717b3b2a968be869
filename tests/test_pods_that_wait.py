"""What keeps a pod from starting, in whichever of its containers: it is named, and ends what can't come right."""

from typing import Any

import pytest

from dcp_operator.api.json_types import Body
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import observe
from pod_bodies import ended, job, pod, runs, waits
from scenes import STARTED, at, checkpoint, message, phase

INITIALIZING = waits("PodInitializing")
NO_IMAGE = waits("ImagePullBackOff", 'Back-off pulling image "fetch:1": manifest unknown')
SLOW_IMAGE = waits("ErrImagePull", "connection refused")


def decided(body: Body, seconds: float) -> CheckpointDecision:
    of = checkpoint({"spec.workers": {}, "spec.timeouts": {"startSeconds": 600}})
    return decide(of, observe([job(nodes=1)], [body]), STARTED, at(seconds))


def pending(worker: Body, **fields: Any) -> Body:
    return pod(0, worker, phase="Pending", **fields)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("body", "stands", "says"),
    [
        pytest.param(
            pending(INITIALIZING, inits={"fetch": NO_IMAGE}),
            ("Failed", "ImagePullFailed"),
            "init container fetch is ImagePullBackOff: Back-off pulling",
            id="an init container's image is not there",
        ),
        pytest.param(
            pending(INITIALIZING, inits={"fetch": waits("InvalidImageName", "bad")}),
            ("Failed", "ImagePullFailed"),
            "init container fetch is InvalidImageName",
            id="nor can it be",
        ),
        pytest.param(
            pending(INITIALIZING, inits={"fetch": SLOW_IMAGE}),
            ("Starting", "ImagePullFailed"),
            "init container fetch is ErrImagePull: connection refused",
            id="it can't be pulled now",
        ),
        pytest.param(
            pending(INITIALIZING, inits={"proxy": waits("CrashLoopBackOff", "back-off 5m0s")}),
            ("Starting", None),
            "init container proxy is CrashLoopBackOff: back-off 5m0s",
            id="a native sidecar that dies and dies",
        ),
        pytest.param(
            pending(INITIALIZING, inits={"fetch": waits("CreateContainerConfigError", 'secret "x" not found')}),
            ("Starting", None),
            'init container fetch is CreateContainerConfigError: secret "x" not found',
            id="its Secret is not there",
        ),
        pytest.param(
            pending(INITIALIZING, inits={"first": ended(code=0), "second": NO_IMAGE}),
            ("Failed", "ImagePullFailed"),
            "init container second",
            id="the second of two",
        ),
        pytest.param(
            pending(waits(), others={"shipper": NO_IMAGE}),
            ("Starting", None),
            "container shipper is ImagePullBackOff",
            id="a sidecar, which holds up nothing",
        ),
        pytest.param(
            pending(NO_IMAGE, others={"shipper": waits("CreateContainerError", "x")}),
            ("Failed", "ImagePullFailed"),
            "is ImagePullBackOff",
            id="the worker's own comes first",
        ),
        pytest.param(
            pod(0, runs(), phase="Pending", others={"shipper": NO_IMAGE}), ("Running", None), "runs", id="it runs"
        ),
    ],
)
def test_what_a_pod_waits_for_is_said(body: Body, stands: tuple[str, str | None], says: str) -> None:
    found = decided(body, 40)
    assert phase(found) == stands
    assert says in message(found)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("body", "reason", "says"),
    [
        pytest.param(
            pending(INITIALIZING, inits={"fetch": SLOW_IMAGE}), "ImagePullFailed", "init container fetch", id="image"
        ),
        pytest.param(
            pending(INITIALIZING, inits={"done": ended(code=0), "fetch": runs()}),
            "StartTimeout",
            "is PodInitializing: init container fetch is at work",
            id="an init container that takes for ever",
        ),
        pytest.param(
            pending(waits(), others={"shipper": NO_IMAGE}), "StartTimeout", "container shipper", id="a sidecar"
        ),
    ],
)
def test_what_a_pod_waited_for_in_vain_is_said(body: Body, reason: str, says: str) -> None:
    found = decided(body, 601)
    assert phase(found) == ("Failed", reason)
    assert says in message(found)
