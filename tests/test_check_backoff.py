"""The check `wait_for_backoff`."""

from datetime import datetime

import pytest

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Failure, Retries, Status
from dcp_operator.controllers.checkpoint.checks.backoff import wait_for_backoff
from dcp_operator.controllers.checkpoint.observed import Attempt
from scenes import at, attempt, inputs, running

FAILURE = Failure(reason=Reason.RANK_FAILED, message="Rank 1: boom", attempt=1)


@pytest.mark.parametrize(
    ("next_time", "now", "attempts", "waits"),
    [
        pytest.param(None, at(0), (), False, id="no delay was set"),
        pytest.param(at(5), at(4), (), True, id="too early"),
        pytest.param(at(5), at(5), (), False, id="due"),
        pytest.param(at(5), at(4), (attempt(running(0), number=2),), False, id="it has started already"),
    ],
)
def test_no_attempt_starts_before_its_time(
    next_time: datetime | None, now: datetime, attempts: tuple[Attempt, ...], *, waits: bool
) -> None:
    status = Status(failure=FAILURE, retries=Retries(last_ended=1, next_time=next_time))
    found = wait_for_backoff(inputs(*attempts, status=status, now=now))
    assert (found is not None) is waits
    if found is not None:
        assert (found.status.phase, found.status.reason) == ("Pending", "RankFailed")
        assert (found.wake_at, found.actions, found.status.retries) == (next_time, (), status.retries)
        assert found.message == "Attempt 1 failed: Rank 1: boom. Attempt 2 starts at 08:00:05Z."


def test_a_probe_may_wait_without_a_failure_to_name() -> None:
    found = wait_for_backoff(inputs(status=Status(retries=Retries(last_ended=1, next_time=at(5)))))
    assert found is not None
    assert (found.status.reason, found.message) == (None, "Attempt 2 starts at 08:00:05Z.")
