"""A launcher that is told to stop, or killed: nothing half committed, no process left behind, a Report if it can."""

import signal
from pathlib import Path
from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.task import Task
from worker_process import Pod, ran, started, started_anew, started_bare, task, until

pytestmark = pytest.mark.tier("pods")


def files(url: Path) -> list[Path]:
    return sorted(path for path in url.rglob("*") if path.is_file())


def waiting(point: str, folder: Path, **fields: Any) -> Task:
    return task(folder / "url", "WaitsAt", {"point": point, "folder": str(folder)}, **fields)


def stopped(pod: Pod) -> None:
    """Expect a Report of a stop, by nobody's fault."""
    report = pod.report
    assert report.terminated
    assert report.result is None
    assert {failure.reason for failure in report.failures} <= {Reason.WORKER_LOST}
    until(lambda: pod.processes() == [], 10)


def test_while_torch_is_loaded(tmp_path: Path) -> None:
    with started_anew(task(tmp_path / "url"), tmp_path) as pod:
        until(lambda: "loading torch" in pod.log)
        pod.send(signal.SIGTERM)
        stopped(pod)
    assert files(tmp_path / "url") == []


def test_in_a_step(tmp_path: Path) -> None:
    with started_bare(task(tmp_path / "url", args={"how": "sleep"}, ranks=2), tmp_path) as pod:
        pod.rank(0)
        pod.rank(1)
        pod.send(signal.SIGTERM)
        stopped(pod)
        assert {failure.stage for failure in pod.report.failures} == {"step 1 of 1000000"}
    assert files(tmp_path / "url") == []


def test_in_a_save_the_engine_removes_what_it_wrote_and_what_stood_there_stands(tmp_path: Path) -> None:
    assert ran(task(tmp_path / "url"), tmp_path / "seed").result is Reason.SAVED
    before = {path: path.read_bytes() for path in files(tmp_path / "url")}
    work = waiting("mid-part", tmp_path, ranks=2, overwrite=True, uid="uid-2")
    with started(work, tmp_path) as pod:
        pod.rank(0)
        pod.rank(1)
        pod.send(signal.SIGTERM)
        until(lambda: all((tmp_path / f"told-{rank}").exists() for rank in (0, 1)))
        pod.go()
        stopped(pod)
    assert {path: path.read_bytes() for path in files(tmp_path / "url")} == before


def test_after_the_commit_it_is_saved(tmp_path: Path) -> None:
    with started(waiting("after commit", tmp_path), tmp_path) as pod:
        pod.rank(0)
        pod.send(signal.SIGTERM)
        pod.go()
        report = pod.report
        assert pod.process.returncode == 0
    assert report.terminated
    assert report.result is Reason.SAVED
    assert report.checkpoint is not None
    assert (tmp_path / "url" / ".metadata").exists()


@pytest.mark.parametrize("when", ["loading", "working"])
def test_a_killed_launcher_leaves_no_process(when: str, tmp_path: Path) -> None:
    work = task(tmp_path / "url", args={"how": "sleep"}, ranks=2)
    with (started_anew if when == "loading" else started_bare)(work, tmp_path) as pod:
        if when == "loading":
            until(lambda: "loading torch" in pod.log and len(pod.processes()) > 1)
        else:
            pod.rank(0)
            pod.rank(1)
        pod.send(signal.SIGKILL)
        pod.wait()
        until(lambda: pod.processes() == [], 10)
    assert not (tmp_path / "report").exists()
    assert files(tmp_path / "url") == []
