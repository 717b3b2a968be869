"""A Copy in whole pods: what it copies, what it refuses in a spec's words, and what a later attempt finds."""

from pathlib import Path

import pytest

import dcp_engine
from dcp_contract.operations import CopyFields, IfExists, Operation
from dcp_contract.reasons import Reason
from dcp_contract.task import Task
from worker_process import ran, task

pytestmark = pytest.mark.tier("pods")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    assert ran(task(folder / "url"), folder / "pod").result is Reason.SAVED
    return folder / "url"


def copy(source: Path, url: Path, if_exists: IfExists = IfExists.FAIL) -> Task:
    asked = {"from": {"url": f"file://{source}"}, "ifExists": if_exists, "bytesPerSecond": 1 << 30}
    fields = CopyFields.model_validate(asked)
    # By JSON, as a pod gets it: a member whose name Python has taken travels by the name of the spec.
    given = task(url, operation=Operation.COPY).model_copy(update={"workload": None, "save": None, "copy_": fields})
    return Task.decode(given.to_json())


def test_a_copy_is_the_save_and_another_attempt_finds_it_done(saved: Path, tmp_path: Path) -> None:
    for attempt in ("1", "2"):
        report = ran(copy(saved, tmp_path / "copy"), tmp_path / attempt)
        assert (report.result, report.warnings, report.failures) == (Reason.COPIED, [], [])
        found = dcp_engine.find(tmp_path / "copy")
        assert report.checkpoint is not None
        assert found is not None
        assert report.checkpoint.manifest_digest == found.manifest_digest
        assert report.checkpoint.url == f"file://{tmp_path / 'copy'}"
        assert "by" in report.checkpoint.verified
    assert found == dcp_engine.find(saved).model_copy(update={"url": found.url})  # type: ignore[union-attr]


def test_a_taken_url_is_a_conflict_in_the_words_of_a_copy(saved: Path, tmp_path: Path) -> None:
    assert ran(task(tmp_path / "taken"), tmp_path / "0").result is Reason.SAVED
    report = ran(copy(saved, tmp_path / "taken"), tmp_path / "1")
    assert report.result is None
    (failure,) = report.failures
    assert failure.reason is Reason.OVERWRITE_CONFLICT
    assert "Write copy.ifExists: Replace to replace it, or copy to another URL." in failure.message
    assert report.conflict is not None
    assert "Write copy.ifExists: Replace" in report.conflict.message
    assert ran(copy(saved, tmp_path / "taken", IfExists.REPLACE), tmp_path / "2").result is Reason.COPIED
    assert ran(copy(tmp_path / "nowhere", tmp_path / "x"), tmp_path / "3").failures[0].reason is (
        Reason.CHECKPOINT_NOT_FOUND
    )
