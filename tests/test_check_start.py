"""The check `start_attempt`."""

from datetime import datetime
from typing import Any

import pytest

from dcp_operator.api.checkpoint.status import Retries, Status
from dcp_operator.controllers.checkpoint.actions import CreateAttempt
from dcp_operator.controllers.checkpoint.checks.start import start_attempt
from scenes import NOW, at, attempt, checkpoint, inputs, running

QUEUED = checkpoint({"metadata.labels": {"kueue.x-k8s.io/queue-name": "gpus"}})
RETRY = Status(start_time=at(-60), retries=Retries(last_ended=1, failed=1))
PROBE = RETRY.with_changes(retries=Retries(last_ended=1, probe=True))


@pytest.mark.parametrize(
    ("given", "number", "phase", "started", "text"),
    [
        pytest.param({}, 1, "Starting", NOW, "starts 2 pods.", id="the first"),
        pytest.param({"status": RETRY}, 2, "Starting", at(-60), "starts 2 pods.", id="a retry"),
        pytest.param({"of": QUEUED}, 1, "Queued", NOW, "waits for the queue 'gpus' to admit it.", id="in a queue"),
        pytest.param({"status": PROBE}, 2, "Starting", at(-60), "looks whether the lost attempt had", id="a probe"),
        pytest.param({"of": QUEUED, "status": PROBE}, 2, "Starting", at(-60), "looks whether", id="no probe queues"),
    ],
)
def test_what_is_created(given: dict[str, Any], number: int, phase: str, started: datetime, text: str) -> None:
    found = start_attempt(inputs(**given))
    assert found is not None
    (action,) = found.actions
    assert isinstance(action, CreateAttempt)
    assert (action.attempt, action.job_name) == (number, checkpoint().job_name(number))
    assert (action.suspend, action.task.probe) == (phase == "Queued", given.get("status") is PROBE)
    status = found.status
    assert (status.phase, status.attempts, status.start_time) == (phase, number, started)
    assert status.job_ref is not None
    assert (status.job_ref.name, status.job_ref.uid) == (action.job_name, "")
    assert status.free_form_digest == checkpoint().free_form_digest
    assert (status.ranks, status.completion_time, status.conflict, status.progress) == ("2 (2x1)", None, None, None)
    assert text in found.message


def test_an_attempt_under_way_is_not_started_again() -> None:
    assert start_attempt(inputs(attempt(running(0)))) is None
    assert start_attempt(inputs(attempt(running(0), deleting=True))) is not None
