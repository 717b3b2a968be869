"""A Delete in whole pods: what it removes, what it refuses, and what an attempt finds that another one has begun."""

from pathlib import Path

import pytest

import dcp_engine
from dcp_contract.operations import DeleteFields, Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_contract.task import Task
from dcp_engine.commit import replaced
from dcp_engine.stores.opening import open_store
from worker_process import ran, task

pytestmark = pytest.mark.tier("pods")

OTHER = "f" * 32


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    assert ran(task(folder / "url"), folder / "pod").result is Reason.SAVED
    return folder / "url"


def delete(url: Path, save_id: str | None = None, attempt: int = 1, saved_by: str | None = None) -> Task:
    named = DeleteFields(save_id=save_id, saved_by=saved_by)
    fields = {"workload": None, "save": None, "delete": named, "attempt": attempt}
    return task(url, operation=Operation.DELETE).model_copy(update=fields)


def save_id_at(url: Path) -> str:
    found = dcp_engine.find(url)
    assert found is not None
    return found.save_id


def test_another_save_is_refused_and_the_one_that_is_named_goes(saved: Path, tmp_path: Path) -> None:
    save_id = save_id_at(saved)
    report = ran(delete(saved, OTHER), tmp_path / "1")
    (failure,) = report.failures
    assert (report.result, report.conflict, failure.reason, failure.rank) == (None, None, Reason.SAVE_MISMATCH, 0)
    assert f"holds save {save_id} by Checkpoint team/one (uid uid-1)" in failure.message
    assert save_id_at(saved) == save_id
    report = ran(delete(saved, save_id), tmp_path / "2")
    assert (report.result, report.warnings) == (Reason.DELETED, [])
    assert report.checkpoint is not None
    assert (report.checkpoint.save_id, report.checkpoint.step, report.checkpoint.files) == (save_id, 1, 1)
    assert not saved.exists()


def test_what_a_checkpoint_object_has_saved_goes_by_its_uid(tmp_path: Path) -> None:
    """Whether it had committed is not known: nothing is done where it had not, nor where another one saved."""
    url = tmp_path / "url"
    assert gone(ran(delete(url, saved_by="uid-1"), tmp_path / "1"))
    assert ran(task(url), tmp_path / "2").result is Reason.SAVED
    (failure,) = ran(delete(url, saved_by="uid-2"), tmp_path / "3").failures
    assert failure.reason is Reason.SAVE_MISMATCH
    report = ran(delete(url, saved_by="uid-1"), tmp_path / "4")
    assert (report.result, report.warnings) == (Reason.DELETED, [])
    assert not url.exists()


def gone(report: Report) -> bool:
    return report.result is Reason.DELETED and "nothing was committed there any more" in "".join(report.warnings)


def test_what_is_gone_already_is_done_and_what_never_was_is_told(tmp_path: Path) -> None:
    """An attempt whose Report got lost has removed it; a URL with a typo was never there."""
    url = tmp_path / "nothing"
    assert gone(ran(delete(url, OTHER), tmp_path / "1"))
    assert gone(ran(delete(url, attempt=2), tmp_path / "2"))
    (failure,) = ran(delete(url), tmp_path / "3").failures
    assert (failure.reason, failure.stage) == (Reason.CHECKPOINT_NOT_FOUND, "preflight")


def test_the_next_attempt_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    """It had come as far as `.metadata`."""
    url = tmp_path / "url"
    assert ran(task(url), tmp_path / "1").result is Reason.SAVED
    store = open_store(str(url))
    replaced.mark(store, save_id_at(url), by=OTHER, keep=store.keep_replaced)
    (url / ".metadata").unlink()
    assert gone(ran(delete(url, attempt=2), tmp_path / "2"))
    assert not url.exists()
