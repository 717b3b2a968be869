"""The check `leave_finished_alone`."""

import pytest

from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.controllers.checkpoint.checks.finished import leave_finished_alone
from dcp_operator.controllers.checkpoint.reporting import conditions
from scenes import NOW, attempt, inputs, running


@pytest.mark.parametrize("phase", Phase)
def test_a_terminal_phase_ends_the_chain(phase: Phase) -> None:
    status = Status(phase=phase)
    found = leave_finished_alone(inputs(attempt(running(0), number=1), status=status))
    assert (found is not None) is (phase in {"Succeeded", "Conflict", "Failed"})
    if found is not None:
        assert (found.status, found.actions, found.wake_at) == (status, (), None)


def test_the_message_is_that_of_the_attempt_that_has_just_ended_or_the_one_that_stands() -> None:
    done = Status(phase=Phase.FAILED)
    done = done.with_changes(conditions=conditions(done, "as written", (), NOW))
    for message, expected in (("", "as written"), ("just ended", "just ended")):
        found = leave_finished_alone(inputs(status=done, message=message))
        assert found is not None
        assert found.message == expected
