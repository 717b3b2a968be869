"""A Clean in a whole pod: what it says in the Report, and that damage at its URL ends it before a rank starts."""

import os
from pathlib import Path

import pytest

from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.sections import CleanFields
from dcp_contract.task import Task
from worker_process import ran, task

pytestmark = pytest.mark.tier("pods")


def clean(url: Path, **fields: object) -> Task:
    given = task(url, operation=Operation.CLEAN).model_copy(
        update={"workload": None, "save": None, "clean": CleanFields.model_validate(fields)}
    )
    return Task.decode(given.to_json())


def test_a_clean_says_what_went_and_a_dry_run_what_would(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    orphan = tmp_path / "run/step-1" / f"data-{'0' * 32}" / "__0_0.distcp"
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"left")
    os.utime(orphan, (0, 0))
    for fields, did in (({"dryRun": True}, "Would remove"), ({}, "Removed")):
        assert orphan.exists()
        report = ran(clean(tmp_path / "run", recursive=True, **fields), tmp_path / did)
        assert (report.result, report.warnings, report.failures) == (Reason.CLEANED, [], [])
        assert report.checkpoint is not None
        assert report.checkpoint.removed == f"{did} 1 orphaned save (4 B)"
        assert (report.checkpoint.bytes, report.checkpoint.files) == (4, 1)
    assert not orphan.exists()
    (tmp_path / "run/.metadata").write_bytes(b"cut off")
    failed = ran(clean(tmp_path / "run"), tmp_path / "damaged")
    assert [(each.reason, each.stage) for each in failed.failures] == [(Reason.CHECKPOINT_CORRUPTED, "preflight")]
