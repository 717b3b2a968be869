"""The check `wait_while_spec_differs`. How a spec changes under way is told in test_decide_changes.py."""

import pytest

from dcp_operator.api.checkpoint.status import Retries, Status
from dcp_operator.controllers.checkpoint.checks.changed_spec import wait_while_spec_differs
from scenes import attempt, checkpoint, inputs, running

OTHER = Status(free_form_digest="of another spec", retries=Retries(last_ended=1))


def test_no_further_attempt_starts_of_another_spec() -> None:
    found = wait_while_spec_differs(inputs(status=OTHER))
    assert found is not None
    assert (found.status.phase, found.status.reason, found.actions) == ("Pending", "InvalidSpec", ())
    assert (found.status.free_form_digest, found.wake_at) == ("of another spec", None)
    assert found.message.startswith("Attempt 2 waits: spec.workload.args, spec.storage.options or")


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(Status(), id="nothing has begun"),
        pytest.param(Status(free_form_digest=checkpoint().free_form_digest), id="the same spec"),
        pytest.param(OTHER.with_changes(run_id="before"), id="of another run"),
    ],
)
def test_a_spec_that_did_not_change(status: Status) -> None:
    assert wait_while_spec_differs(inputs(status=status)) is None


def test_an_attempt_under_way_goes_on() -> None:
    assert wait_while_spec_differs(inputs(attempt(running(0), number=2), status=OTHER)) is None
