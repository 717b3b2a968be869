"""How an attempt ended: one cause, picked out of its echoes."""

from dataclasses import replace
from typing import Any

import pytest

from dcp_contract.checkpoint_info import Conflict
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure, Report
from dcp_operator.controllers.checkpoint.attempt_outcome import AttemptOutcome, outcome_of, times_outcome_may_change
from dcp_operator.controllers.checkpoint.observed import Attempt
from scenes import at, attempt, ended, failed, running, saved


def of(*pods: Any, seconds: float = 0, operation: Operation = Operation.SAVE, **fields: Any) -> AttemptOutcome | None:
    return outcome_of(attempt(*pods, **fields), operation, at(seconds))


def certain(*pods: Any, seconds: float = 0, operation: Operation = Operation.SAVE, **fields: Any) -> AttemptOutcome:
    found = of(*pods, seconds=seconds, operation=operation, **fields)
    assert found is not None
    return found


LOST_PEER = failed(Reason.WORKER_LOST, rank=0, time=1)
LOADED = Report(result=Reason.LOADED)


def test_a_committed_save_has_ended_whatever_its_pods_do() -> None:
    found = certain(ended(0, saved()), running(1))
    assert found.succeeded
    assert found.checkpoint is not None
    assert certain(ended(0, saved()), ended(1, failed())).succeeded
    assert certain(ended(0, saved()), ended(1, oom_killed=True)).succeeded


def test_a_load_has_ended_when_every_pod_has() -> None:
    assert of(ended(0, LOADED), running(1), operation=Operation.LOAD) is None
    assert certain(ended(0, LOADED), ended(1, Report(result=Reason.LOADED)), operation=Operation.LOAD).succeeded
    assert certain(ended(0, LOADED), running(1), operation=Operation.LOAD, seconds=60).succeeded


def test_a_load_that_failed_on_another_pod_failed() -> None:
    found = certain(ended(0, LOADED), ended(1, failed(Reason.STATE_MISMATCH, rank=1)), operation=Operation.LOAD)
    assert found.reason is Reason.STATE_MISMATCH


def test_running_pods_have_not_ended() -> None:
    assert of(running(0), running(1)) is None


def test_a_failed_pod_waits_a_minute_for_the_others_reports() -> None:
    assert of(running(0), ended(1, failed(rank=1)), seconds=59) is None
    assert certain(running(0), ended(1, failed(rank=1)), seconds=60).reason is Reason.RANK_FAILED


@pytest.mark.parametrize(
    "report",
    [Report(conflict=Conflict(save_id="s9")), failed(Reason.STORAGE_DENIED, rank=None)],
    ids=["conflict", "preflight"],
)
def test_what_node_0_found_before_its_ranks_started_waits_for_nobody(report: Report) -> None:
    assert not certain(ended(0, report), running(1)).succeeded


def test_a_finished_job_waits_a_moment_for_the_watch_of_pods() -> None:
    fields: dict[str, Any] = {"finished": at(0), "job_failure": "FailedIndexes"}
    assert of(running(0), running(1), seconds=14, **fields) is None
    assert certain(running(0), running(1), seconds=15, **fields).reason is Reason.WORKER_LOST


def test_a_suspended_job_has_not_ended() -> None:
    assert of(ended(0, Report(terminated=True)), suspended=True) is None
    assert certain(ended(0, saved()), suspended=True).succeeded


OOM = ended(1, oom_killed=True, exit_code=137)
PREEMPTED = ended(1, disrupted="PreemptionByScheduler")


@pytest.mark.parametrize(
    ("pods", "reason", "rank"),
    [
        pytest.param(
            (ended(0, LOST_PEER), ended(1, failed(rank=1, time=9))), Reason.RANK_FAILED, 1, id="cause, not echo"
        ),
        pytest.param(
            (ended(0, failed(rank=0, time=2)), ended(1, failed(rank=1, time=1))), Reason.RANK_FAILED, 1, id="first"
        ),
        pytest.param((ended(0, failed(time=1)), OOM), Reason.OUT_OF_MEMORY, None, id="memory explains all"),
        pytest.param((ended(0, failed(time=1)), PREEMPTED), Reason.WORKER_LOST, None, id="preemption explains"),
        pytest.param((PREEMPTED, replace(OOM, index=0)), Reason.OUT_OF_MEMORY, None, id="memory before preemption"),
        pytest.param(
            (ended(0, failed(time=1)), ended(1, failed(Reason.STORAGE_FULL, rank=1, time=2))),
            Reason.STORAGE_FULL,
            1,
            id="named before unnamed",
        ),
        pytest.param(
            (ended(0, failed(Reason.RANK_HUNG, time=5)), ended(1, failed(rank=1, time=2))),
            Reason.RANK_FAILED,
            1,
            id="failed, then its peers hung",
        ),
        pytest.param(
            (ended(0, failed(time=5)), ended(1, failed(Reason.RANK_HUNG, rank=1, time=2))),
            Reason.RANK_HUNG,
            1,
            id="hung, then its peers failed",
        ),
        pytest.param(
            (ended(0, failed(Reason.DEADLINE_EXCEEDED, time=1)), ended(1, failed(Reason.RANK_HUNG, rank=1, time=2))),
            Reason.RANK_HUNG,
            1,
            id="hung before the deadline",
        ),
        pytest.param(
            (ended(0, LOST_PEER), ended(1, exit_code=139)), Reason.WORKER_LOST, None, id="died without a word"
        ),
        pytest.param(
            (ended(0, failed(Reason.ENTRYPOINT_ERROR, rank=None)),), Reason.ENTRYPOINT_ERROR, None, id="launcher"
        ),
        pytest.param(
            (ended(0, failed(Reason.OUT_OF_MEMORY)),), Reason.OUT_OF_MEMORY, 0, id="the launcher saw the kill"
        ),
        pytest.param((ended(0, rejected="Evicted: disk"),), Reason.WORKER_LOST, None, id="evicted"),
        pytest.param((ended(0, Report(terminated=True)),), Reason.WORKER_LOST, None, id="told to stop"),
        pytest.param((ended(0, Report()),), Reason.WORKER_LOST, None, id="an empty report"),
        pytest.param((ended(0, started=None, exit_reason="StartError"),), Reason.ENTRYPOINT_ERROR, None, id="no start"),
    ],
)
def test_the_cause(pods: tuple[Any, ...], reason: Reason, rank: int | None) -> None:
    found = certain(*pods)
    assert found.failure is not None
    assert (found.reason, found.failure.reason, found.failure.rank) == (reason, reason, rank)
    assert not found.succeeded
    assert found.failure.message.strip()


@pytest.mark.parametrize(
    ("pods", "counted"),
    [
        pytest.param((ended(0, LOST_PEER), PREEMPTED), False, id="preempted"),
        pytest.param((ended(0, disrupted="EvictionByEvictionAPI"),), False, id="drained"),
        pytest.param((ended(0, rejected="Evicted: over its own limit"),), True, id="evicted for its own use"),
        pytest.param(
            (ended(0, disrupted="TerminationByKubelet", rejected="Evicted: The node was low on resource: memory."),),
            True,
            id="evicted for the node's sake",
        ),
        pytest.param(
            (ended(0, disrupted="TerminationByKubelet", rejected="Terminated: node shutdown"),), False, id="shut down"
        ),
        pytest.param((ended(0, failed()),), True, id="failed"),
        pytest.param((PREEMPTED, replace(OOM, index=0)), True, id="out of memory as well"),
    ],
)
def test_what_counts(pods: tuple[Any, ...], counted: bool) -> None:  # noqa: FBT001 - a table's column
    assert certain(*pods).counted is counted


@pytest.mark.parametrize(
    ("found", "lost"),
    [
        pytest.param(attempt(ended(0)), True, id="node 0 said nothing"),
        pytest.param(attempt(ended(0, failed()), ended(1)), False, id="node 1 said nothing"),
        pytest.param(attempt(ended(0, failed())), False, id="reported"),
        pytest.param(attempt(ended(0, started=None, exit_reason="StartError")), False, id="never started"),
        pytest.param(attempt(ended(0), ended(1, started=None)), False, id="ranks never met"),
        pytest.param(attempt(nodes=1, finished=at(-60), job_failure="FailedIndexes"), True, id="its pods are gone"),
    ],
)
def test_when_a_commit_may_have_gone_unreported(found: Attempt, lost: bool) -> None:  # noqa: FBT001 - a table's column
    outcome_ = outcome_of(found, Operation.SAVE, at(0))
    assert outcome_ is not None
    assert outcome_.lost is lost


def test_a_failure_names_rank_pod_and_node() -> None:
    report = Report(
        failures=[
            RankFailure(
                rank=3, reason=Reason.RANK_FAILED, message="boom", stage="steps", exit_code=-9, traceback="last line"
            )
        ]
    )
    failure = certain(ended(0, LOST_PEER), ended(1, report)).failure
    assert failure is not None
    assert failure.message == "Rank 3 in pod pod-1 (steps): boom"
    assert (failure.pod, failure.node, failure.exit_code) == ("pod-1", "node-1", -9)
    assert (failure.traceback, failure.retriable) == ("last line", True)


def test_failed_ranks_are_listed_and_counted() -> None:
    failures = [RankFailure(rank=rank, reason=Reason.RANK_FAILED, time=rank) for rank in range(16)]
    found = certain(ended(0, Report(failures=failures, failed_rank_count=40)))
    assert [each.rank for each in found.failed_ranks] == list(range(16))
    assert found.failed_rank_count == 40


@pytest.mark.adversary
@pytest.mark.parametrize(
    "report", [saved(), failed(), Report(conflict=Conflict(save_id="s9"))], ids=["saved", "failed", "conflict"]
)
def test_warnings_are_as_many_and_as_long_as_a_status_may_hold(report: Report) -> None:
    found = certain(ended(0, report.model_copy(update={"warnings": ["w" * 4000] * 40})))
    assert found.warnings == ("w" * 2048,) * 16


def test_a_conflict() -> None:
    found = certain(ended(0, Report(conflict=Conflict(save_id="s9", message="Checkpoint already exists"))))
    assert (found.reason, found.conflict and found.conflict.save_id) == (Reason.OVERWRITE_CONFLICT, "s9")
    assert not found.succeeded


def test_a_conflict_without_a_holder() -> None:
    found = certain(ended(0, failed(Reason.OVERWRITE_CONFLICT)))
    assert found.conflict is not None


def test_the_jobs_own_deadline() -> None:
    found = certain(nodes=1, finished=at(-20), job_failure="DeadlineExceeded")
    assert found.reason is Reason.DEADLINE_EXCEEDED


def test_a_pod_that_was_deleted_with_its_report() -> None:
    found = certain(ended(0, LOST_PEER), nodes=2, finished=at(-20), job_failure="FailedIndexes")
    assert found.failure is not None
    assert found.failure.message == "The pod of node 1 was deleted before its Report was read."


def test_a_lost_node() -> None:
    lost = running(1, deleting=at(-40))
    found = certain(ended(0, LOST_PEER), lost)
    assert found.failure is not None
    assert "the node is probably lost" in found.failure.message


def test_a_lost_node_gives_the_others_a_minute_to_report() -> None:
    found = attempt(running(0), running(1, deleting=at(0), disrupted="DeletionByTaintManager"))
    assert outcome_of(found, Operation.SAVE, at(89)) is None
    assert {at(30), at(90)} <= set(times_outcome_may_change(found))
    lost = outcome_of(found, Operation.SAVE, at(90))
    assert lost is not None
    assert (lost.reason, lost.counted, lost.lost) == (Reason.WORKER_LOST, False, True)
    assert lost.failure is not None
    assert lost.failure.node == "node-1"
