"""The check `report_running`: what is said of an attempt that runs, and its progress."""

from typing import Any

import pytest

from dcp_contract.progress import Progress
from dcp_operator.api.checkpoint.status import RunProgress, Status
from dcp_operator.controllers.checkpoint.checks.running import report_running
from dcp_operator.controllers.checkpoint.inputs import CheckResult
from scenes import NOW, at, attempt, ended, inputs, running


def reported(*pods: Any, status: Status | None = None, seconds: float = 0, **fields: Any) -> CheckResult:
    found = report_running(inputs(attempt(*pods, **fields), status=status, now=at(seconds)))
    assert found is not None
    assert found.status.phase == "Running"
    return found


@pytest.mark.parametrize(
    ("second", "text"),
    [
        pytest.param(running(1), "every pod of Job save-1000", id="all run"),
        pytest.param(ended(1), "pod pod-1 failed; the others' Reports are awaited.", id="one failed"),
        pytest.param(
            running(1, deleting=at(-30)), "pod pod-1 on node node-1 is lost; the others' Reports", id="a lost node"
        ),
    ],
)
def test_what_is_said(second: Any, text: str) -> None:
    assert text in reported(running(0), second).message


def test_it_has_nothing_to_say_where_no_attempt_is() -> None:
    assert report_running(inputs()) is None


def progress_after(seconds: float, moved: int | None, status: Status | None = None) -> CheckResult:
    progress = Progress(stage="upload", bytes=moved, total_bytes=100, bytes_per_second=9.6) if moved else None
    return reported(running(0), running(1), status=status, seconds=seconds, progress=progress)


def test_progress_is_written_at_most_every_five_seconds() -> None:
    first = progress_after(10, 10)
    assert first.status.progress == RunProgress(
        stage="upload", percent=10, bytes=10, total_bytes=100, bytes_per_second=10, last_update_time=at(10)
    )
    soon = progress_after(14, 20, first.status)
    assert (soon.status, soon.wake_at) == (first.status, at(15))
    assert progress_after(99, 10, first.status).status == first.status
    later = progress_after(15, 20, first.status)
    assert later.status.progress is not None
    assert later.status.progress.percent == 20


def test_lost_progress_changes_nothing() -> None:
    first = progress_after(10, 10)
    assert progress_after(30, None, first.status).status == first.status


def test_it_looks_again_at_the_deadline() -> None:
    assert reported(running(0), running(1)).wake_at == at(3630)
    assert reported(running(0), ended(1, finished=NOW), seconds=1).wake_at == at(60)
