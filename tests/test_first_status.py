"""No tool that follows kstatus takes a Checkpoint for done before the operator says so."""

from collections.abc import Callable

import pytest

from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision
from dcp_operator.controllers.checkpoint.refused_creation import wait_for_creation
from dcp_operator.generate import crd
from scenes import (
    NOW,
    RUNNING,
    after_first_attempt,
    attempt,
    checkpoint,
    decided,
    ended,
    failed,
    refused,
    running,
    saved,
)

SCHEMA = crd.custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


@pytest.mark.adversary
def test_an_object_that_no_operator_has_seen_is_in_progress() -> None:
    """kstatus: an observedGeneration other than the generation is InProgress; no status at all would be Current."""
    assert SCHEMA["properties"]["status"]["default"] == {"observedGeneration": -1}
    assert Status.read(SCHEMA["properties"]["status"]["default"]).attempts == 0


def invalid() -> CheckpointDecision:
    return refused(generation=1, status={"observedGeneration": -1})


@pytest.mark.adversary
@pytest.mark.parametrize(
    "decision",
    [
        pytest.param(lambda: decided(status={"observedGeneration": -1}), id="started"),
        pytest.param(lambda: decided(attempt(running(0), running(1)), status=RUNNING), id="running"),
        pytest.param(lambda: after_first_attempt(ended(0, saved()), ended(1, saved())), id="succeeded"),
        pytest.param(
            lambda: after_first_attempt(ended(0, failed()), ended(1, failed(rank=1))), id="failed, tried again"
        ),
        pytest.param(lambda: decided(of=checkpoint({"spec.suspend": True})), id="suspended"),
        pytest.param(invalid, id="refused"),
        pytest.param(lambda: wait_for_creation(checkpoint(), decided(), {}, "exceeded quota", NOW), id="over quota"),
    ],
)
def test_every_status_says_which_generation_it_is_about(decision: Callable[[], CheckpointDecision]) -> None:
    """The CRD's default fills in an absent status only: a written one without the field would lose it."""
    assert decision().status["observedGeneration"] == 1
