"""Operator, worker image and CRD of different versions: each pair of neighbours works, and anything else says so.

The files in golden/contract are frozen: a message once written is read for one version more.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from dcp_contract.message import CONTRACT_VERSION
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_contract.sections import Device, Strategy
from dcp_contract.task import Task
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision, CreateAttempt
from dcp_operator.controllers.checkpoint.attempt_outcome import outcome_of
from dcp_worker.launcher.main import main
from scenes import (
    STARTED,
    after_first_attempt,
    at,
    attempt,
    checkpoint,
    decided,
    ended,
    failed,
    refused,
    running,
    saved,
)

FROZEN = Path(__file__).parent / "golden" / "contract"


def frozen(name: str) -> str:
    return (FROZEN / f"{name}.json").read_text()


@pytest.mark.adversary
@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_task_of_a_neighbour_is_read(version: int) -> None:
    task = Task.decode(frozen(f"task-{version}"))
    assert task.contract_version == version
    assert (task.operation, task.origin.run_id, task.attempt, task.probe) == (Operation.SAVE, "again", 2, True)
    assert (task.storage.url, task.of_save.overwrites) == ("s3://bucket/run/step-1000", True)
    assert task.storage.options == {"endpoint_url": "http://s3:7070", "region": "eu-central-1"}
    assert task.workload is not None
    assert (task.workload.entrypoint, task.of_save.steps) == ("my_pkg.train:Workload", 3)
    source = task.of_save.from_
    assert source is not None
    assert (task.parallelism.strategy, task.parallelism.replicate) == (Strategy.HSDP, 2)
    assert (task.workers.world_size, task.workers.device) == (16, Device.CUDA)
    # What is known is kept, even where the newer version calls it ignorable.
    assert (source.strict, source.include, source.exclude) == (False, ["model.*"], ["optim.*"])
    assert (task.active_seconds, task.hang_seconds) == (600, 120)
    # The ranks read what their launcher hands on.
    assert Task.model_validate_json(task.to_json()) == task


def changed(text: str, **changes: Any) -> str:
    return json.dumps(json.loads(text) | changes)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(
            changed(frozen("task-1"), contractVersion=CONTRACT_VERSION + 2), "has contract version 4", id="two ahead"
        ),
        pytest.param(changed(frozen("task-1"), contractVersion=0), "has contract version 0", id="two behind"),
        pytest.param(changed(frozen("task-1"), contractVersion="x"), "has contract version x", id="no version"),
        pytest.param(
            changed(frozen("task-3"), ignorable=[]), "traceParent: this worker image does not know it", id="new"
        ),
        pytest.param(
            changed(frozen("task-3"), ignorable=["traceParent"]), "storage.prefetch: this worker image", id="nested"
        ),
        pytest.param(changed(frozen("task-3"), ignorable=7), "traceParent: this worker image", id="nonsense"),
        pytest.param(changed(frozen("task-2"), operation="Prune"), "operation: Input should be", id="a new operation"),
        pytest.param("[]", "no JSON object", id="no object"),
        pytest.param('{"operation":', "Invalid JSON", id="cut"),
    ],
)
def test_a_task_that_can_not_be_done_is_refused_in_one_line(
    text: str, line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "log"
    assert main({"DCP_TASK": text, "DCP_TERMINATION_LOG": str(log)}) == 1
    read = Report.decode(log.read_text())
    assert read is not None
    (failure,) = read.failures
    assert failure.reason is Reason.INVALID_SPEC
    assert line in failure.message
    assert "\n" not in failure.message
    capsys.readouterr()


def test_our_task_says_its_version() -> None:
    text = checkpoint().task(1).to_json()
    assert json.loads(text)["contractVersion"] == CONTRACT_VERSION
    assert Task.decode(text) == checkpoint().task(1)
    assert json.loads(Report(node=1).encode())["contractVersion"] == CONTRACT_VERSION


@pytest.mark.adversary
@pytest.mark.parametrize("version", [1, 3])
def test_a_report_of_a_neighbour_says_what_was_saved(version: int) -> None:
    report = Report.decode(frozen(f"report-{version}-saved"))
    assert report is not None
    assert (report.contract_version, report.result) == (version, Reason.SAVED)
    assert report.checkpoint is not None
    assert (report.checkpoint.save_id, report.checkpoint.step) == ("s1", 1000)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("name", "reason", "retriable", "says"),
    [
        pytest.param("report-1-failed", Reason.STORAGE_DENIED, False, "no key", id="older"),
        pytest.param("report-3-failed", Reason.RANK_FAILED, False, "NodeOnFire: put it out", id="newer, a new reason"),
        pytest.param("report-1-conflict", Reason.OVERWRITE_CONFLICT, False, "already exists", id="older conflict"),
    ],
)
def test_a_report_of_a_neighbour_says_why_it_failed(name: str, reason: Reason, says: str, *, retriable: bool) -> None:
    found = outcome_of(attempt(ended(0, Report.decode(frozen(name)))), Operation.SAVE, at(0))
    assert found is not None
    assert found.failure is not None
    assert (found.reason, found.failure.retriable) == (reason, retriable)
    assert says in found.failure.message


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("fields", "retriable"),
    [({}, True), ({"retriable": False}, False), ({"retriable": True}, True)],
    ids=["not said", "final", "passing"],
)
def test_an_unknown_reason_is_retried_as_its_worker_says(fields: dict[str, Any], *, retriable: bool) -> None:
    text = json.dumps({"failures": [{"reason": "NodeOnFire", "rank": 1, "message": "hot", **fields}]})
    found = after_first_attempt(ended(0, Report.decode(text)), ended(1, LOST_PEER)).status
    assert found["failure"].get("retriable", False) is retriable
    assert "NodeOnFire: hot" in found["failure"]["message"]


def test_an_unknown_reason_that_was_cut_is_the_same() -> None:
    whole = frozen("report-3-failed")
    cut = Report.decode(whole[: whole.index("put it out") + 8])
    assert cut is not None
    assert (cut.failures[0].reason, cut.failures[0].retriable) == (Reason.RANK_FAILED, False)
    assert cut.failures[0].message.startswith("NodeOnFire: put")


LOST_PEER = failed(Reason.WORKER_LOST, rank=0)
DONE = after_first_attempt(ended(0, saved()), ended(1)).status


def created(decision: CheckpointDecision) -> list[CreateAttempt]:
    return [each for each in decision.actions if isinstance(each, CreateAttempt)]


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("changes", "names"),
    [
        pytest.param({"phase": "Archived"}, "status.phase", id="a new terminal phase"),
        pytest.param({"phase": 7}, "status.phase", id="no word"),
        pytest.param({"retries": ["settled"]}, "status.retries", id="another shape of the book"),
        pytest.param({"retries": {"lastEnded": "one"}}, "status.retries", id="another type in the book"),
        pytest.param({"attempts": "many"}, "status.attempts", id="attempts"),
        pytest.param({"freeFormDigest": {"sha256": "x"}}, "status.freeFormDigest", id="digest"),
        pytest.param({"jobRef": "j"}, "status.jobRef", id="job"),
        pytest.param({"runId": ["r"]}, "status.runId", id="run"),
    ],
)
@pytest.mark.parametrize("before", [DONE, STARTED], ids=["finished", "under way"])
def test_what_can_not_be_read_is_left_alone(before: dict[str, Any], changes: dict[str, Any], names: str) -> None:
    status = before | changes
    for pods in ((), (attempt(running(0), running(1)),), (attempt(ended(0), ended(1)),)):
        found = decided(*pods, status=status, now=at(4000))
        assert (found.actions, found.status, found.wake_at) == ((), status, None)
        (event,) = found.events
        assert (event.type, event.reason) == ("Warning", "StatusUnreadable")
        assert event.message.startswith(f"{names} can't be read")
    found = refused(status=status, now=at(1))
    assert (found.actions, found.status) == ((), status)


def test_a_new_run_does_not_ask_what_became_of_the_old_one() -> None:
    found = decided(of=checkpoint({"spec.runId": "again"}), status=DONE | {"phase": "Archived"})
    assert len(created(found)) == 1


@pytest.mark.adversary
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"archive": {"url": "s3://b/x"}}, id="a new field"),
        pytest.param({"reason": "SavedTwice"}, id="a new reason"),
        pytest.param({"checkpoint": {"url": "s3://b/x", "step": "last"}}, id="a field of another type"),
    ],
)
def test_what_a_newer_operator_wrote_of_a_finished_one_stays(changes: dict[str, Any]) -> None:
    status = DONE | changes
    found = decided(status=status, now=at(5))
    assert {name: found.status[name] for name in changes} == changes
    assert found.status["phase"] == "Succeeded"
    assert created(found) == []
