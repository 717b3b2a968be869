"""The check `report_queued`."""

import pytest

from dcp_operator.controllers.checkpoint.checks.queued import report_queued
from scenes import attempt, checkpoint, inputs, running

LABEL = {"metadata.labels": {"kueue.x-k8s.io/queue-name": "gpus"}}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        pytest.param(LABEL, "waits for the queue 'gpus' to admit it.", id="a queue"),
        pytest.param({}, "is suspended, and the Checkpoint names no queue: put its label", id="no queue"),
    ],
)
def test_what_a_suspended_job_waits_for(changes: dict[str, object], text: str) -> None:
    found = report_queued(inputs(attempt(nodes=2, suspended=True, uid="u"), of=checkpoint(changes)))
    assert found is not None
    assert (found.status.phase, found.status.reason) == ("Queued", "Queued")
    assert (found.actions, found.wake_at) == ((), None), "nothing runs out of time in a queue"
    assert text in found.message
    assert found.status.job_ref is not None
    assert found.status.job_ref.uid == "u"


def test_it_has_nothing_to_say_of_a_job_that_is_not_suspended() -> None:
    assert report_queued(inputs(attempt(running(0)))) is None
    assert report_queued(inputs()) is None
