"""Who stands still and whose fault it is; and the Report that comes of it. Tables over pure functions."""

from math import inf
from multiprocessing import Process
from types import SimpleNamespace
from typing import Any

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict, Provenance
from dcp_contract.operations import Operation
from dcp_contract.progress import Progress
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_contract.sections import Storage
from dcp_contract.task import Task
from dcp_worker.heartbeat import Slot
from dcp_worker.launcher import pod_report, stalls
from dcp_worker.launcher import supervisor as supervisor_module
from dcp_worker.launcher.stalls import Sight
from dcp_worker.launcher.supervisor import Orders, PodContext, Supervisor, _Member
from dcp_worker.rank.result import Outcome


def sight(rank: int, silent: float = 0, still: float = 0, *, waiting: bool = False, transfers: bool = False) -> Sight:
    return Sight(rank, "a stage", silent, max(still, silent), waiting, transfers)


HUNG = {
    "all at work": ([sight(0, still=9), sight(1, still=100)], []),
    "one without a heartbeat": ([sight(0), sight(1, silent=11)], [1]),
    "without a heartbeat, though it waited": ([sight(0, silent=11, waiting=True)], [0]),
    "not yet": ([sight(0, silent=9)], []),
    "a transfer that stalls": ([sight(0, still=11, transfers=True), sight(1, transfers=True)], [0]),
    "waiting for the one that stalls": (
        [sight(0, still=99, transfers=True, waiting=True), sight(1, still=11, transfers=True)],
        [1],
    ),
    "stopped, and another waits in its transfer": (
        [sight(0, silent=11, transfers=True), sight(1, still=11, transfers=True, waiting=True)],
        [0],
    ),
    "a long step": ([sight(0, still=3000)], []),
    "nobody": ([], []),
}


@pytest.mark.parametrize(("sights", "ranks"), HUNG.values(), ids=HUNG)
def test_hung(sights: list[Sight], ranks: list[int]) -> None:
    assert [each.rank for each in stalls.hung(sights, 10)] == ranks


CULPRITS = {
    "a step that does not end, and who waits for it": ([sight(0, still=20, waiting=True), sight(1, still=20)], [1]),
    "a stopped rank before one that stands still": ([sight(0, silent=6), sight(1, still=20)], [0]),
    "all wait for one another": ([sight(0, still=20, waiting=True), sight(1, still=20, waiting=True)], []),
    "all at work": ([sight(0, still=1), sight(1, still=2)], []),
}


@pytest.mark.parametrize(("sights", "ranks"), CULPRITS.values(), ids=CULPRITS)
def test_culprits_at_the_deadline(sights: list[Sight], ranks: list[int]) -> None:
    assert [each.rank for each in stalls.culprits(sights, 10)] == ranks


def test_how_a_rank_hung_is_said() -> None:
    assert stalls.describe(sight(0, silent=7.2)) == "no heartbeat for 7 s: the process is stopped or blocked"
    assert stalls.describe(sight(0, silent=0.3, still=7.2)) == "no progress for 7 s, and it waits for no other rank"


def test_progress_adds_up_and_has_a_rate() -> None:
    def at(done: int, time: float, before: Progress | None) -> Progress:
        moving = [Sight(rank, "saving", 0, rank, False, True, done, 100) for rank in (0, 1)]
        return stalls.progress(moving, before, time)

    first = at(10, 1000.0, None)
    second = at(30, 1002.0, first)
    assert (first.bytes, first.total_bytes, first.bytes_per_second, first.percent) == (20, 200, 0, 10)
    assert (second.bytes_per_second, second.ranks, second.stage) == (20, 2, "saving")
    assert at(100, 1003.0, second).ranks == 0
    assert at(0, 1003.0, second).bytes_per_second == 0


def failure(rank: int | None, reason: Reason, time: float = 0, **fields: Any) -> RankFailure:
    return RankFailure(rank=rank, reason=reason, time=time, message=f"{reason} {rank}", **fields)


SAVED = Outcome(0, Reason.SAVED, CheckpointInfo(save_id="s1"), bytes_moved=5, seconds=2)
OTHER = Outcome(1, Reason.SAVED, CheckpointInfo(save_id="s1"), bytes_moved=6, seconds=3)


def test_progress_goes_on_after_the_clock_was_set_back(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = Task(operation=Operation.VERIFY, origin=Provenance(), storage=Storage(url="file:///run"))
    supervisor = Supervisor(task, PodContext(0, "", 0, 5, {}), Orders(), inf)
    slot = Slot()
    supervisor._members.append(_Member(0, slot, Process(), None))
    shown = []
    for wall, monotonic in ((9000, 0), (9004, 4), (2000, 6), (2003, 9), (2006, 12)):
        slot.done += 1
        monkeypatch.setattr(supervisor_module, "time", SimpleNamespace(time=lambda: wall, monotonic=lambda: monotonic))  # noqa: B023
        supervisor._show_progress()
        shown.append(len(capsys.readouterr().out.splitlines()))
    assert shown == [1, 0, 1, 0, 1]


def test_ranks_that_succeed_make_a_report_of_their_sum() -> None:
    report = pod_report.report(0, 2, [SAVED, OTHER], [])
    assert report.result is Reason.SAVED
    assert report.checkpoint == SAVED.checkpoint
    assert (report.bytes_moved, report.seconds, report.failed_rank_count) == (11, 3, 0)


def test_another_node_has_a_result_and_no_checkpoint() -> None:
    report = pod_report.report(1, 1, [OTHER], [])
    assert (report.node, report.result, report.checkpoint) == (1, Reason.SAVED, None)


def test_a_commit_stands_whatever_another_rank_says() -> None:
    report = pod_report.report(0, 2, [SAVED], [failure(1, Reason.RANK_FAILED)])
    assert report.result is Reason.SAVED
    assert report.checkpoint is not None


@pytest.mark.parametrize("world", [1, 2])
def test_a_load_succeeds_on_all_ranks_or_not_at_all(world: int) -> None:
    report = pod_report.report(0, world, [Outcome(0, Reason.LOADED, CheckpointInfo())], [])
    assert report.result == (Reason.LOADED if world == 1 else None)


ORDER = {
    "by time": (
        [failure(1, Reason.RANK_FAILED, 2), failure(0, Reason.ENTRYPOINT_ERROR, 1)],
        [],
        [0, 1],
    ),
    "an echo comes last, though its clock was first": (
        [failure(0, Reason.WORKER_LOST, 1), failure(1, Reason.RANK_FAILED, 2)],
        [],
        [1, 0],
    ),
    "who timed out is an echo of who hung": (
        [failure(0, Reason.RANK_HUNG, 1)],
        [failure(1, Reason.RANK_HUNG, 2)],
        [1, 0],
    ),
    "who timed out, alone": ([failure(0, Reason.RANK_HUNG, 2), failure(1, Reason.WORKER_LOST, 1)], [], [0, 1]),
    "one per rank": ([failure(0, Reason.STORAGE_FULL, 2), failure(0, Reason.STORAGE_FULL, 1)], [], [0]),
}


@pytest.mark.parametrize(("said", "seen", "ranks"), ORDER.values(), ids=ORDER)
def test_causes_come_before_echoes(said: list[RankFailure], seen: list[RankFailure], ranks: list[int]) -> None:
    found = pod_report.causes([*seen, *said], seen)
    assert [each.rank for each in found] == ranks
    assert min(each.time for each in found) == 1


def test_the_report_of_64_ranks_with_much_to_say_is_whole() -> None:
    long = '\N{SNOWMAN}"\\\n' * 500
    failures = tuple(
        RankFailure(rank=rank, reason=Reason.ENTRYPOINT_ERROR, message=long, stage=long, traceback=long, time=rank)
        for rank in range(64)
    )
    outcomes = [
        Outcome(
            rank, failures=failures[:16], failed_ranks=64, warnings=(f"{rank} {long}",), conflict=Conflict(message=long)
        )
        for rank in range(64)
    ]
    text = pod_report.report(0, 64, outcomes, []).encode()
    assert len(text.encode()) <= 4096
    report = Report.decode(text)
    assert report is not None
    assert report.failed_rank_count == 64
    assert report.failures[0].rank == 0


MAY_BE = {
    "killed while it saved": ([failure(0, Reason.RANK_FAILED, stage="saving")], True),
    "lost a peer while it saved": ([failure(0, Reason.WORKER_LOST, stage="saving")], True),
    "killed before": ([failure(0, Reason.RANK_FAILED, stage="step 1 of 2")], False),
    "the save itself failed": ([failure(0, Reason.STORAGE_FULL, stage="saving")], False),
    "nothing failed": ([], False),
}


@pytest.mark.parametrize(("failures", "expected"), MAY_BE.values(), ids=MAY_BE)
def test_when_to_look_for_a_commit_that_nobody_reported(failures: list[RankFailure], *, expected: bool) -> None:
    assert pod_report.may_be_committed(Report(failures=failures)) is expected
    assert not pod_report.may_be_committed(Report(result=Reason.SAVED, failures=failures))


def test_a_commit_found_is_the_result() -> None:
    failed = Report(failures=[failure(0, Reason.RANK_FAILED, stage="saving")])
    report = pod_report.committed(failed, CheckpointInfo(save_id="s1"), Operation.SAVE)
    assert report.result is Reason.SAVED
    assert report.failures == failed.failures


@pytest.mark.adversary
def test_a_report_holds_no_secret() -> None:
    secret = "wJalrXUtnFEMI/K7MDENG"
    text = f"signed with {secret}"
    given = Report(
        failures=[RankFailure(reason=Reason.STORAGE_DENIED, message=text, traceback=text)],
        conflict=Conflict(message=text),
        warnings=[text],
    )
    report = pod_report.redacted(
        given, {"AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": "with", "HOME": "signed"}
    )
    assert secret not in report.to_json()
    assert report.failures[0].message == "signed with ***"
