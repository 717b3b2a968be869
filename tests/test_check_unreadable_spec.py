"""The check `wait_while_spec_is_unreadable`."""

from dataclasses import replace

from dcp_operator.controllers.checkpoint.checks.unreadable_spec import wait_while_spec_is_unreadable
from scenes import attempt, checkpoint, inputs, running

PARTIAL = replace(checkpoint(), unread=("spec.invented: unknown field", "spec.retries: too large"))


def test_no_attempt_starts_of_a_spec_that_is_read_in_part() -> None:
    found = wait_while_spec_is_unreadable(inputs(of=PARTIAL))
    assert found is not None
    assert (found.status.phase, found.status.reason, found.actions) == ("Pending", "InvalidSpec", ())
    assert found.message.startswith("Attempt 1 waits for an operator that can read the spec")
    assert found.message.endswith("spec.invented: unknown field; spec.retries: too large")


def test_who_does_not_wait() -> None:
    assert wait_while_spec_is_unreadable(inputs()) is None
    assert wait_while_spec_is_unreadable(inputs(attempt(running(0)), of=PARTIAL)) is None
