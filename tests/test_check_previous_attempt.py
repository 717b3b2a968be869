"""The check `wait_for_previous_attempt`."""

from dataclasses import replace
from datetime import datetime
from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Failure, Retries, Status
from dcp_operator.controllers.checkpoint.checks.previous_attempt import wait_for_previous_attempt
from scenes import NOW, at, attempt, checkpoint, ended, inputs, running

JOB = checkpoint().job_name(1)
RUNS = attempt(running(0), deleting=True)
OVER = attempt(ended(0), finished=NOW)
SECOND = Status(retries=Retries(last_ended=1))


@pytest.mark.parametrize(
    ("given", "awaited", "wake_at"),
    [
        pytest.param({}, None, None, id="nothing is there"),
        pytest.param({"attempts": (RUNS,), "status": SECOND}, f"Job {JOB}", None, id="the attempt before runs"),
        pytest.param({"attempts": (OVER,), "status": SECOND}, None, None, id="the attempt before is over"),
        pytest.param({"earlier": (replace(RUNS, job_name="old"),)}, "Job old", None, id="an earlier run's runs"),
        pytest.param({"earlier": (replace(OVER, job_name="old"),)}, None, None, id="an earlier run's is over"),
        pytest.param({"earlier": (OVER,)}, f"Job {JOB}", None, id="an earlier run's has the name"),
        pytest.param({"leftover": (running(3),)}, "pod pod-3", None, id="a pod whose Job is gone"),
        pytest.param({"leftover": (running(3, deleting=at(60)),)}, "pod pod-3", at(90), id="one on a dead node"),
        pytest.param({"leftover": (running(3, deleting=at(-60)),)}, None, None, id="one that is given up"),
        pytest.param({"leftover": (running(3, started=None), ended(4))}, None, None, id="pods that do nothing"),
    ],
)
def test_what_is_awaited(given: dict[str, Any], awaited: str | None, wake_at: datetime | None) -> None:
    others = {name: each for name, each in given.items() if name != "attempts"}
    found = wait_for_previous_attempt(inputs(*given.get("attempts", ()), **others))
    assert (found is not None) is (awaited is not None)
    if found is not None:
        assert (found.status.phase, found.actions, found.wake_at) == ("Pending", (), wake_at)
        number = found.status.retries.last_ended + 1
        assert found.message == f"Attempt {number} starts when {awaited} has stopped."


def test_an_attempt_under_way_is_not_kept_waiting() -> None:
    assert wait_for_previous_attempt(inputs(attempt(running(0)), leftover=(running(3),))) is None


def test_the_delay_is_over_by_then_and_the_failure_stays_the_reason() -> None:
    failure = Failure(reason=Reason.WORKER_LOST, attempt=1)
    status = Status(failure=failure, retries=Retries(last_ended=1, failed=1, next_time=at(-1)))
    found = wait_for_previous_attempt(inputs(RUNS, status=status))
    assert found is not None
    assert found.status.retries == Retries(last_ended=1, failed=1)
    assert found.status.reason == "WorkerLost"
