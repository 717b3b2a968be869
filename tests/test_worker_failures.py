"""Ranks that fail, die, hang or are killed: one Report each time, which names the rank.

What needs nothing but a workload is in `test_run_reasons`.
"""

import os
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from worker_process import Pod, alive, nodes, ran, ran_anew, ran_bare, started, task, until

pytestmark = pytest.mark.tier("pods")

ALONE: dict[str, dict[str, Any]] = {
    "rank 0 dies saving": {"workload": "DiesAt", "args": {"rank": 0, "point": "mid-part"}, "ranks": 2},
    "rank 1 dies saving": {"workload": "DiesAt", "args": {"rank": 1, "point": "mid-part"}, "ranks": 2},
    "dies committed": {"workload": "DiesAt", "args": {"rank": 0, "point": "after commit"}, "ranks": 2},
}
BARE: dict[str, dict[str, Any]] = {
    "slow": {"args": {"how": "step"}, "active_seconds": 6},
    "many": {"args": {"how": "raise", "length": 900}, "ranks": 24},
    "lock": {"args": {"how": "lock", "rank": 1}, "ranks": 2, "hang_seconds": 3},
    "child": {"args": {"how": "child"}},
}
"""Launchers that end without a test's doing. Two run at a time beside the tests that need their hands held.

What those of BARE show does not depend on what their ranks compute.
"""

Ended = Callable[[str], Report]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("alone")


@pytest.fixture(scope="module")
def ended(folder: Path) -> Iterator[Ended]:
    def run(name: str) -> Report:
        place = folder / name
        if name in BARE:
            return ran_bare(task(place / "url", **BARE[name]), place)
        return ran(task(place / "url", **ALONE[name]), place)

    with ThreadPoolExecutor(2) as pool:
        running: dict[str, Future[Report]] = {name: pool.submit(run, name) for name in (*ALONE, *BARE)}
        yield lambda name: running[name].result()
        for future in running.values():
            future.cancel()


def first(report: Report) -> RankFailure:
    assert report.result is None
    return report.failures[0]


def committed(folder: Path) -> bool:
    return (folder / "url" / ".metadata").exists()


def test_a_killed_rank_is_noticed_though_its_child_holds_all_it_had_open(ended: Ended) -> None:
    failure = first(ended("child"))
    assert (failure.rank, failure.reason, failure.exit_code) == (0, Reason.RANK_FAILED, -9)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_in_its_save_leaves_no_checkpoint(rank: int, ended: Ended, folder: Path) -> None:
    failure = first(ended(f"rank {rank} dies saving"))
    assert (failure.rank, failure.reason, failure.exit_code, failure.stage) == (rank, Reason.RANK_FAILED, -9, "saving")
    assert not committed(folder / f"rank {rank} dies saving")


def test_a_commit_is_a_commit_though_its_rank_did_not_live_to_report_it(ended: Ended, folder: Path) -> None:
    report = ended("dies committed")
    assert committed(folder / "dies committed")
    assert report.result is Reason.SAVED
    assert report.checkpoint is not None
    assert report.checkpoint.origin is not None
    assert report.checkpoint.origin.uid == "uid-1"
    assert report.failures[0].rank == 0
    assert "after the commit" in report.warnings[0]


def test_a_stopped_rank_is_named_and_killed(tmp_path: Path) -> None:
    args = {"folder": str(tmp_path), "rank": 1}
    with started(task(tmp_path / "url", "Blocks", args, ranks=2, hang_seconds=3), tmp_path) as pod:
        pid = pod.rank(1)
        os.kill(pid, signal.SIGSTOP)
        failure = first(pod.report)
        assert not alive(pid)
    assert (failure.rank, failure.reason, failure.stage) == (1, Reason.RANK_HUNG, "step 1 of 1")
    assert "the process is stopped or blocked" in failure.message


def test_a_rank_that_holds_the_interpreters_lock_is_named_and_killed(ended: Ended) -> None:
    failure = first(ended("lock"))
    assert (failure.rank, failure.reason, failure.stage) == (1, Reason.RANK_HUNG, "step 1 of 1000000")
    assert "the process is stopped or blocked" in failure.message


def test_ranks_that_are_at_work_at_the_deadline_are_stopped(ended: Ended) -> None:
    report = ended("slow")
    failure = first(report)
    assert (failure.rank, failure.reason) == (0, Reason.DEADLINE_EXCEEDED)
    assert failure.stage.startswith("step ")
    assert failure.message == "still at work after activeSeconds (6 s)"
    assert not report.terminated


def test_the_report_of_many_ranks_with_much_to_say_fits(ended: Ended, folder: Path) -> None:
    report = ended("many")
    assert len((folder / "many" / "report").read_bytes()) <= 4096
    assert report.failed_rank_count == 24
    assert report.failures[0].reason is Reason.ENTRYPOINT_ERROR
    assert "is not for you" in report.failures[0].message


def test_a_torch_that_does_not_load_is_said(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcudart.so.13: cannot open shared object file')\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    report = ran_anew(task(tmp_path / "url"), tmp_path / "pod", PYTHONPATH=path)
    failure = first(report)
    assert failure.reason is Reason.RANK_FAILED
    assert "torch" in failure.message + failure.stage
    assert "libcudart" in failure.traceback + (tmp_path / "pod" / "log").read_text()


def test_a_torch_that_loads_for_ever_is_ended_at_the_deadline(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import threading\nthreading.Event().wait()\n")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    failure = first(ran_anew(task(tmp_path / "url", active_seconds=1), tmp_path / "pod", PYTHONPATH=path))
    assert failure.reason is Reason.DEADLINE_EXCEEDED
    assert failure.message == "torch was still loading after activeSeconds (1 s)"


def test_two_nodes_save_and_each_reports_its_own_ranks(tmp_path: Path) -> None:
    with nodes(task(tmp_path / "url", nodes=2), tmp_path) as (zero, one):
        assert (zero.report.result, one.report.result) == (Reason.SAVED, Reason.SAVED)
    assert zero.report.checkpoint is not None
    assert zero.report.checkpoint.world_size == 2
    assert one.report.checkpoint is None
    assert (zero.report.node, one.report.node) == (0, 1)


def test_a_rank_that_raises_on_another_node_is_named_there_and_an_echo_here(tmp_path: Path) -> None:
    with nodes(task(tmp_path / "url", "ModelRaises", {"rank": 1}, nodes=2), tmp_path) as (zero, one):
        cause, echo = first(one.report), first(zero.report)
    assert (cause.rank, cause.reason) == (1, Reason.ENTRYPOINT_ERROR)
    assert (echo.rank, echo.reason) == (0, Reason.WORKER_LOST)
    assert echo.time - cause.time < 10


def test_a_node_that_goes_away_takes_the_other_down_within_seconds(tmp_path: Path) -> None:
    args = {"folder": str(tmp_path), "rank": 1}
    with nodes(task(tmp_path / "url", "Blocks", args, nodes=2), tmp_path) as (zero, one):
        rank = Pod(one.process, tmp_path).rank(1)
        one.send(signal.SIGKILL)
        echo = first(zero.report)
        until(lambda: not alive(rank))
    assert (echo.rank, echo.reason) == (0, Reason.WORKER_LOST)
    assert not (tmp_path / "node-1" / "report").exists()
    assert not committed(tmp_path)
