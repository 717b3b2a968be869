"""A worker image may report anything: no status says what can't be, and no attempts follow without end."""

from typing import Any

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.progress import PROGRESS_KEY, Progress
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.kube.client.api import CHECKPOINTS
from dcp_operator.kube.loop.checkpoint import count
from fake_api import FakeApi
from scenes import (
    NOW,
    after_first_attempt,
    attempt,
    checkpoint,
    created,
    decided,
    ended,
    manifest,
    message,
    phase,
    saved,
    true,
)

pytestmark = pytest.mark.adversary

OWN = {
    "Save": Reason.SAVED,
    "Load": Reason.LOADED,
    "Verify": Reason.VERIFIED,
    "Delete": Reason.DELETED,
    "Copy": Reason.COPIED,
    "Validate": Reason.VALIDATED,
    "Export": Reason.EXPORTED,
    "Clean": Reason.CLEANED,
}
FOUND = {"Save": Reason.ALREADY_SAVED}
"""What it may find done."""
ONE_PROCESS = {"spec.workload": None, "spec.workers": {"numNodes": 1}}


def doing(operation: str) -> Any:
    source = {f"spec.{operation.lower()}.from.url": "s3://bucket/other"} if operation in {"Copy", "Export"} else {}
    alone = {} if operation in {"Save", "Load"} else ONE_PROCESS
    return checkpoint({"spec.operation": operation, **alone, **source})


@pytest.mark.parametrize("operation", OWN)
@pytest.mark.parametrize("result", Reason)
def test_a_result_is_of_the_operation_or_none(operation: str, result: Reason) -> None:
    of = doing(operation)
    pods = [ended(index, Report(result=result)) for index in range(of.spec.workers.num_nodes)]
    found = after_first_attempt(*pods, of=of)
    if result in {OWN[operation], FOUND.get(operation)}:
        assert phase(found) == ("Succeeded", result)
        return
    assert phase(found) == ("Failed", "EntrypointError")
    assert f"reports {result}, which is no result of {of.spec.operation.one}" in message(found)
    assert created(found) == []


@pytest.mark.parametrize("reason", Reason)
def test_a_failure_has_the_reason_of_a_failure(reason: Reason) -> None:
    report = Report(failures=[RankFailure(rank=0, reason=reason, message="words")], failed_rank_count=1)
    of = checkpoint({"spec.retries": 0})
    found = after_first_attempt(ended(0, report), ended(1, report), of=of)
    assert true(found) == {"Failed", "Stalled"}
    assert REASONS[Reason(found.status["reason"])].phase in {Phase.FAILED, Phase.CONFLICT}
    assert [each.type for each in found.events] == ["Warning"]
    assert "words" in message(found)
    assert found.status["reason"] == reason or f"{reason}: words" in message(found)


def test_attempts_have_an_end_whatever_is_reported() -> None:
    of = checkpoint({"spec.retries": 0})
    found = decided(attempt(ended(0, Report(result=Reason.QUEUED)), ended(1), of=of), of=of)
    assert phase(found)[0] == "Failed"


@pytest.mark.parametrize("operation", OWN)
def test_who_saved_it_in_another_namespace_is_told_in_no_status(operation: str) -> None:
    of = doing(operation)
    for namespace, told in (("prod", None), ("team", "nightly")):
        info = CheckpointInfo(
            save_id="s",
            origin=Origin(namespace=namespace, name="nightly", uid="u"),
            verified="by Checkpoint prod/x (uid 1)",
        )
        report = Report(result=OWN[operation], checkpoint=info)
        found = after_first_attempt(*(ended(index, report) for index in range(of.spec.workers.num_nodes)), of=of)
        assert "prod" not in str(found)
        assert found.status["checkpoint"].get("origin", {}).get("name") == told


@pytest.mark.parametrize("field", ["step", "bytes", "files", "tensors", "worldSize"])
def test_what_is_less_than_nothing_is_unknown(field: str) -> None:
    written = CheckpointInfo.model_validate({field: -5})
    assert written == CheckpointInfo()


def test_a_count_that_is_negative_fails_no_reconcile() -> None:
    """A Prometheus counter only goes up."""
    info = CheckpointInfo.model_validate({"url": "s3://b/x", "bytes": -5})
    report = saved().model_copy(update={"checkpoint": info})
    found = after_first_attempt(ended(0, report), ended(1, Report()))
    assert phase(found) == ("Succeeded", "Saved")
    api = FakeApi()
    body = api.add(CHECKPOINTS, {**manifest(), "status": found.status})
    count({}, body, NOW)


def test_ranks_that_failed_are_no_more_than_there_can_be() -> None:
    report = Report(failures=[RankFailure(rank=0, reason=Reason.RANK_FAILED)], failed_rank_count=2**63 - 1)
    found = after_first_attempt(ended(0, report), ended(1, report))
    assert found.status["failedRankCount"] == 4096 * 64


def test_a_progress_line_that_is_nested_deeply_is_none() -> None:
    assert Progress.of_line(f'{{"{PROGRESS_KEY}":' + "[" * 100_000 + "]" * 100_000 + "}") is None
