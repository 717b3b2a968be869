"""The check `report_starting`: what keeps the pods of an attempt from running."""

from typing import Any

import pytest

from dcp_operator.controllers.checkpoint.checks.starting import report_starting
from scenes import NOW, at, attempt, inputs, pending, running


@pytest.mark.parametrize(
    ("pod", "reason", "text"),
    [
        pytest.param(
            {"unschedulable": "0/3 nodes are available"}, "Unschedulable", "can't be scheduled: 0/3 nodes", id="node"
        ),
        pytest.param(
            {"waiting": "ErrImagePull", "waiting_message": "timeout"},
            "ImagePullFailed",
            "ErrImagePull: timeout",
            id="pull",
        ),
        pytest.param(
            {"waiting": "CreateContainerConfigError", "waiting_message": 'configmap "x"'},
            None,
            'configmap "x"',
            id="config",
        ),
    ],
)
def test_why_it_waits(pod: dict[str, str], reason: str | None, text: str) -> None:
    found = report_starting(inputs(attempt(running(0), pending(1, **pod))))
    assert found is not None
    assert (found.status.phase, found.status.reason, found.actions) == ("Starting", reason, ())
    assert text in found.message


@pytest.mark.parametrize(
    ("pods", "seconds", "phase", "reason", "text"),
    [
        pytest.param([], 29, "Starting", None, "starts 2 pods.", id="the Job controller has time yet"),
        pytest.param([], 30, "Pending", "Forbidden", "0 of 2 pods were created; exceeded quota: few.", id="a quota"),
        pytest.param([running(0)], 30, "Starting", None, "1 of 2 pods were created; exceeded", id="room for some"),
        pytest.param([running(0), pending(1)], 30, "Starting", None, "starts 2 pods.", id="all are there"),
    ],
)
def test_pods_that_are_not_created(pods: Any, seconds: int, phase: str, reason: str | None, text: str) -> None:
    live = attempt(*pods, nodes=2, uncreated="exceeded quota: few")
    found = report_starting(inputs(live, now=at(seconds)))
    assert found is not None
    assert (found.status.phase, found.status.reason) == (phase, reason)
    assert text in found.message


def test_a_pod_that_ended_is_not_said_to_wait() -> None:
    over = pending(1, waiting="ErrImagePull", exit_code=1)
    found = report_starting(inputs(attempt(running(0), over)))
    assert found is not None
    assert "ErrImagePull" not in found.message


@pytest.mark.parametrize(
    ("live", "wake_at"),
    [
        pytest.param(attempt(nodes=2), at(30), id="no pod"),
        pytest.param(attempt(running(0), pending(1)), at(600), id="all pods: the timeout"),
        pytest.param(attempt(nodes=2, started=None), None, id="nobody has started the Job"),
    ],
)
def test_when_it_is_looked_at_again(live: Any, wake_at: Any) -> None:
    found = report_starting(inputs(live, now=NOW))
    assert found is not None
    assert found.wake_at == wake_at


def test_it_has_nothing_to_say_of_an_attempt_that_runs_or_is_not_there() -> None:
    assert report_starting(inputs(attempt(running(0), running(1)))) is None
    assert report_starting(inputs()) is None
