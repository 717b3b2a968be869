"""The check `wait_while_suspended`."""

import pytest

from dcp_operator.api.checkpoint.status import Phase, Retries, Status
from dcp_operator.controllers.checkpoint.checks.suspended import wait_while_suspended
from dcp_operator.controllers.checkpoint.observed import Attempt
from dcp_operator.controllers.checkpoint.reporting import conditions
from scenes import NOW, attempt, checkpoint, inputs, running

SUSPENDED = checkpoint({"spec.suspend": True})
BEFORE = Status(attempts=2, retries=Retries(last_ended=1, failed=1))


@pytest.mark.parametrize(
    ("attempts", "status", "retries", "text"),
    [
        pytest.param((), Status(), Retries(), "no attempt is started", id="before the start"),
        pytest.param((), BEFORE, BEFORE.retries, "no attempt is started", id="between two attempts"),
        pytest.param(
            (attempt(running(0), number=2),),
            BEFORE,
            Retries(last_ended=2, failed=1, uncounted=1),
            "attempt 2 is stopped and not counted",
            id="an attempt under way",
        ),
        pytest.param((attempt(number=2, deleting=True),), BEFORE, BEFORE.retries, "no attempt", id="it is going"),
    ],
)
def test_what_becomes_of_the_attempt(
    attempts: tuple[Attempt, ...], status: Status, retries: Retries, text: str
) -> None:
    found = wait_while_suspended(inputs(*attempts, of=SUSPENDED, status=status))
    assert found is not None
    assert (found.status.phase, found.status.reason, found.status.retries) == ("Suspended", "Suspended", retries)
    assert (text in found.message, found.actions) == (True, ())


def test_what_was_said_of_the_stopped_attempt_stands() -> None:
    status = Status(phase=Phase.SUSPENDED)
    status = status.with_changes(conditions=conditions(status, "attempt 2 is stopped", (), NOW))
    found = wait_while_suspended(inputs(of=SUSPENDED, status=status))
    assert found is not None
    assert found.message == "attempt 2 is stopped"


def test_it_has_nothing_to_say_unless_suspended() -> None:
    assert wait_while_suspended(inputs(attempt(running(0)))) is None
