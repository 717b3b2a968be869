"""Conditions as kstatus and kubectl wait read them."""

from datetime import datetime

import pytest

from dcp_contract.reasons import Reason
from dcp_operator.api.checkpoint.status import Phase, Status
from dcp_operator.controllers.checkpoint.reporting import conditions, message_of
from scenes import NOW, at


def truths(status: Status, now: datetime = NOW) -> set[str]:
    return {each.type for each in conditions(status, "why", (), now) if each.status == "True"}


@pytest.mark.parametrize(
    ("phase", "reason", "true"),
    [
        (Phase.PENDING, None, {"Reconciling"}),
        (Phase.QUEUED, Reason.QUEUED, {"Reconciling"}),
        (Phase.STARTING, Reason.UNSCHEDULABLE, {"Reconciling"}),
        (Phase.RUNNING, None, {"Reconciling"}),
        (Phase.SUCCEEDED, Reason.SAVED, {"Ready", "Complete"}),
        (Phase.CONFLICT, Reason.OVERWRITE_CONFLICT, {"Stalled", "Failed"}),
        (Phase.FAILED, Reason.RANK_FAILED, {"Stalled", "Failed"}),
        (Phase.SUSPENDED, Reason.SUSPENDED, {"Suspended"}),
    ],
)
def test_what_is_true_in_a_phase(phase: Phase, reason: Reason | None, true: set[str]) -> None:
    assert truths(Status(phase=phase, reason=reason)) == true


def test_every_condition_is_always_there_with_a_reason() -> None:
    made = conditions(Status(phase=Phase.RUNNING, observed_generation=3), "why", (), NOW)
    assert [each.type for each in made] == ["Ready", "Reconciling", "Stalled", "Complete", "Failed", "Suspended"]
    assert {each.reason for each in made} == {"Running"}
    assert {each.observed_generation for each in made} == {3}
    assert message_of(made) == "why"


def test_a_time_changes_only_with_its_state() -> None:
    first = conditions(Status(phase=Phase.STARTING), "a", (), NOW)
    second = conditions(Status(phase=Phase.RUNNING), "b", first, at(10))
    third = conditions(Status(phase=Phase.SUCCEEDED, reason=Reason.SAVED), "c", second, at(20))
    assert [each.last_transition_time for each in second] == [NOW] * 6
    changed = {each.type for each in third if each.last_transition_time == at(20)}
    assert changed == {"Ready", "Reconciling", "Complete"}
