"""Nodes whose clocks are wrong: a pod's times lie between its creation and its first sight here."""

from datetime import datetime

import pytest

from dcp_operator.api.json_types import Body
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import observe
from dcp_operator.controllers.checkpoint.pods import Pod, pod_of
from pod_bodies import ended, job, pod, runs
from scenes import STARTED, at, checkpoint, failed, phase

HOUR = 3600.0
LIMIT = {"spec.workers": {}, "spec.timeouts": {"activeSeconds": 600}}


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("skew", "shown"),
    [
        pytest.param(-HOUR, 0, id="an hour behind: not before it was created"),
        pytest.param(HOUR, 12, id="an hour ahead: not after it was seen"),
        pytest.param(0, 10, id="right"),
        pytest.param(-5, 5, id="a few seconds behind"),
    ],
)
def test_a_start_is_within_what_is_known(skew: float, shown: float) -> None:
    assert pod_of(pod(0, runs(10 + skew)), at(12)).started == at(shown)


@pytest.mark.adversary
def test_the_first_sight_stands() -> None:
    first = pod_of(pod(0, runs(10 + HOUR)), at(12))
    later = pod_of(pod(0, runs(10 + HOUR)), at(500), first)
    assert later.started == at(12)
    over = pod_of(pod(0, ended(failed(), end=600 + HOUR), phase="Failed"), at(610), later)
    assert (over.started, over.finished) == (at(12), at(610))
    again = pod_of(pod(0, ended(failed(), end=600 + HOUR), phase="Failed"), at(900), over)
    assert again.finished == at(610)


def seen(skew: float, now: float, worker: Body | None = None, before: Pod | None = None) -> Pod:
    return pod_of(pod(0, worker or runs(10 + skew)), at(now), before)


def decided(found: Pod, now: datetime) -> CheckpointDecision:
    return decide(checkpoint(LIMIT), observe([job(nodes=1)], [found]), STARTED, now)


@pytest.mark.adversary
@pytest.mark.parametrize("skew", [-HOUR, -60, 0, 60, HOUR, 24 * HOUR])
def test_a_deadline_is_the_operators_whatever_a_node_says(skew: float) -> None:
    found = seen(skew, 12)
    assert phase(decided(found, at(560)))[0] == "Running"
    assert decided(found, at(700)).status["failure"]["reason"] == "DeadlineExceeded"


@pytest.mark.adversary
@pytest.mark.parametrize("skew", [-HOUR, 0, HOUR])
def test_a_grace_for_the_others_reports_is_a_minute_whatever_a_node_says(skew: float) -> None:
    first = seen(0, 12)
    worker = ended(failed(), end=100 + skew)
    gone = pod_of(pod(1, worker, phase="Failed"), at(101), seen(skew, 12))
    alive = pod_of(pod(0, runs(10)), at(12))
    of = checkpoint({"spec.timeouts": {"activeSeconds": 6000}})
    bodies = [job(nodes=2)]
    assert first.started == at(10)
    assert phase(decide(of, observe(bodies, [alive, gone]), STARTED, at(102)))[0] == "Running"
    assert phase(decide(of, observe(bodies, [alive, gone]), STARTED, at(163)))[0] == "Pending"
