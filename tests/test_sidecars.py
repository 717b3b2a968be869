"""Pods in which something runs beside the ranks: an attempt ends with its ranks, whatever the others do."""

from typing import Any

import pytest

from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.json_types import Body
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome, outcome_of
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import Attempt, observe
from pod_bodies import ended, job, pod, runs, waits
from scenes import STARTED, at, checkpoint, created, deleted, failed, phase, saved

PROXY = {"istio-proxy": runs()}
DEAD = {"istio-proxy": ended(code=0, end=5)}
BROKEN = {"log-shipper": waits("ImagePullBackOff", "not found")}
FAILED = ended(failed(Reason.ENTRYPOINT_ERROR, rank=1))
SAVED = ended(saved())
LOADED = ended(Report(result=Reason.LOADED))
LOADED_1 = ended(Report(result=Reason.LOADED, node=1))


def seen(*pods: Body, body: Body | None = None) -> Attempt:
    (found,) = observe([body or job(nodes=len(pods))], pods).attempts
    return found


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("body", "ends", "fails"),
    [
        pytest.param(pod(worker=FAILED, others=PROXY), True, True, id="failed, the proxy runs"),
        pytest.param(pod(worker=SAVED, others=PROXY), True, False, id="succeeded, the proxy runs"),
        pytest.param(pod(worker=SAVED, others=BROKEN, phase="Pending"), True, False, id="the other one never started"),
        pytest.param(pod(worker=runs(), others=DEAD), False, False, id="the proxy died first"),
        pytest.param(pod(worker=runs(), others={"x": ended(code=1)}), False, False, id="the proxy failed first"),
        pytest.param(
            pod(worker=SAVED, others={"x": ended(code=1)}, phase="Failed"), True, False, id="the proxy failed, not it"
        ),
        pytest.param(pod(worker=FAILED, inits=PROXY), True, True, id="failed, a native sidecar runs"),
        pytest.param(pod(worker=runs(), inits=DEAD), False, False, id="a native sidecar is being restarted"),
        pytest.param(pod(worker=waits(), inits=PROXY, phase="Pending"), False, False, id="has not started"),
        pytest.param(pod(worker=runs(), phase="Failed", reason="NodeLost"), True, True, id="given up with its node"),
        pytest.param(pod(phase="Failed", reason="Evicted"), True, True, id="evicted before it started"),
        pytest.param(pod(phase="Succeeded"), True, False, id="no word of any container"),
    ],
)
def test_a_pod_ends_with_its_worker_container(body: Body, *, ends: bool, fails: bool) -> None:
    (found,) = seen(body).pods
    assert (found.ended, found.failed, found.succeeded) == (ends, fails, ends and not fails)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("bodies", "operation", "reason", "by"),
    [
        pytest.param(
            (pod(0, runs(), others=PROXY), pod(1, FAILED, others=PROXY)),
            Operation.SAVE,
            Reason.ENTRYPOINT_ERROR,
            75,
            id="one failed: the other has a minute",
        ),
        pytest.param(
            (pod(0, ended(failed(rank=0)), others=PROXY), pod(1, FAILED, others=PROXY)),
            Operation.SAVE,
            Reason.ENTRYPOINT_ERROR,
            15,
            id="all failed",
        ),
        pytest.param(
            (pod(0, SAVED, others=PROXY), pod(1, runs(), others=PROXY)), Operation.SAVE, Reason.SAVED, 15, id="saved"
        ),
        pytest.param(
            (pod(0, LOADED, others=PROXY), pod(1, LOADED_1, others=PROXY)),
            Operation.LOAD,
            Reason.LOADED,
            15,
            id="loaded",
        ),
        pytest.param(
            (pod(0, LOADED, others={"x": ended(code=1)}, phase="Failed"), pod(1, LOADED_1, others=PROXY)),
            Operation.LOAD,
            Reason.LOADED,
            15,
            id="loaded, and a proxy failed after it",
        ),
        pytest.param(
            (pod(0, ended(Report(result=Reason.VERIFIED)), others=PROXY),),
            Operation.VERIFY,
            Reason.VERIFIED,
            15,
            id="verified",
        ),
        pytest.param(
            (pod(0, ended(code=137, reason="OOMKilled"), others=PROXY),),
            Operation.SAVE,
            Reason.OUT_OF_MEMORY,
            15,
            id="killed for memory",
        ),
        pytest.param(
            (pod(0, ended(code=139), others=PROXY),), Operation.SAVE, Reason.WORKER_LOST, 15, id="died without a word"
        ),
        pytest.param(
            (
                pod(
                    0,
                    {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "finishedAt": None}},
                    others=PROXY,
                ),
            ),
            Operation.SAVE,
            Reason.WORKER_LOST,
            15,
            id="its node was restarted",
        ),
    ],
)
def test_an_attempt_ends_on_time(bodies: tuple[Body, ...], operation: Operation, reason: Reason, by: float) -> None:
    found: AttemptOutcome | None = outcome_of(seen(*bodies), operation, at(by))
    assert found is not None
    assert found.reason is reason
    assert not seen(*bodies).active or operation is Operation.SAVE


@pytest.mark.adversary
def test_a_sidecar_that_dies_first_ends_nothing() -> None:
    found = seen(pod(0, runs(), others={"x": ended(code=1)}), pod(1, runs(), others=DEAD))
    assert outcome_of(found, Operation.SAVE, at(3000)) is None
    assert found.active


def decided(*pods: Body, status: Any, seconds: float, **spec: Any) -> CheckpointDecision:
    return decide(checkpoint(spec), observe([job(nodes=len(pods))], pods), status, at(seconds))


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("others", "ttl", "kept", "gone"),
    [
        pytest.param(PROXY, 86_400, 79, 80, id="a proxy runs on: a minute after the result"),
        pytest.param(PROXY, -1, 79, 80, id="also where nothing is ever cleaned up"),
        pytest.param(PROXY, 10, 29, 30, id="sooner where the user says so"),
        pytest.param({}, 86_400, 86_419, 86_420, id="none runs: the logs are kept as long as asked for"),
    ],
)
def test_what_a_sidecar_holds_is_given_back(others: dict[str, Body], ttl: int, kept: float, gone: float) -> None:
    pods = [pod(index, SAVED, others=others, phase="Running" if others else "Succeeded") for index in (0, 1)]
    of = checkpoint({"spec.ttlSecondsAfterFinished": ttl})
    seen_ = observe([job()], pods)
    first = decide(of, seen_, STARTED, at(20))
    assert phase(first) == ("Succeeded", "Saved")
    assert first.wake_at == at(gone)
    assert deleted(decide(of, seen_, first.status, at(kept))) == []
    assert deleted(decide(of, seen_, first.status, at(gone))) == [1]


@pytest.mark.adversary
def test_a_retry_does_not_wait_for_the_sidecars_of_the_last_attempt() -> None:
    pods = [pod(index, ended(failed(rank=index)), others=PROXY) for index in (0, 1)]
    first = decided(*pods, status=STARTED, seconds=20)
    assert first.status["retries"]["lastEnded"] == 1
    assert deleted(decided(*pods, status=first.status, seconds=29)) == []
    last = decided(*pods, status=first.status, seconds=30)
    assert (deleted(last), created(last)) == ([1], [(2, False)])


def test_ranks_that_ended_are_not_active_and_their_pods_linger() -> None:
    pods = [pod(index, ended(failed(rank=index)), others=PROXY) for index in (0, 1)]
    assert not seen(*pods).active
    assert seen(*pods).lingers
