"""Failures: what is tried again, what is looked up, what is given up, and conflicts."""

from collections.abc import Mapping
from typing import Any

import pytest

from dcp_contract.checkpoint_info import Conflict, Origin
from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.controllers.checkpoint.observed import Pod
from scenes import (
    NOW,
    RUNNING,
    UID,
    URL,
    after_first_attempt,
    at,
    attempt,
    checkpoint,
    created,
    decided,
    ended,
    failed,
    message,
    phase,
    running,
    saved,
    true,
)


def test_a_retriable_failure_is_tried_again_after_a_while() -> None:
    first = after_first_attempt(ended(0, failed(Reason.WORKER_LOST)), ended(1, failed(rank=1, time=2)))
    assert phase(first) == ("Pending", "RankFailed")
    assert message(first) == "Attempt 1 failed: Rank 1 in pod pod-1: RankFailed here. Attempt 2 starts at 08:00:05Z."
    assert (first.actions, first.wake_at) == ((), at(5))
    assert first.status["failure"]["rank"] == 1
    assert first.status["failedRankCount"] == 2
    assert true(first) == {"Reconciling"}
    assert [(each.type, each.reason) for each in first.events] == [("Warning", "RankFailed")]
    second = decided(status=first.status, now=at(5))
    assert created(second) == [(2, False)]
    assert phase(second) == ("Starting", None)
    assert second.status["failure"]["attempt"] == 1


def test_the_last_attempt() -> None:
    status = RUNNING
    for number in (1, 2, 3):
        pods = (ended(0, failed()), ended(1, failed(rank=1)))
        found = decided(attempt(*pods, number=number), status=status, now=at(100 * number))
        status = found.status
    assert phase(found) == ("Failed", "RankFailed")
    assert true(found) == {"Stalled", "Failed"}
    assert "That was the last of 3 attempts. Look at status.failure.traceback" in message(found)
    assert found.status["attempts"] == 3


def test_no_retries() -> None:
    of = checkpoint({"spec.retries": 0})
    assert phase(after_first_attempt(ended(0, failed()), of=of)) == ("Failed", "RankFailed")


@pytest.mark.parametrize(
    "reason",
    [
        Reason.ENTRYPOINT_ERROR,
        Reason.STORAGE_DENIED,
        Reason.STORAGE_FULL,
        Reason.CHECKPOINT_NOT_FOUND,
        Reason.CHECKPOINT_CORRUPTED,
        Reason.STATE_MISMATCH,
        Reason.INVALID_SPEC,
    ],
)
def test_what_another_attempt_can_not_mend_fails_at_once(reason: Reason) -> None:
    found = after_first_attempt(ended(0, failed(reason)))
    assert phase(found) == ("Failed", reason)
    again = decided(attempt(ended(0, failed(reason))), status=found.status, now=at(9))
    assert (again.status, again.events) == (found.status, ())


def test_the_delay_grows() -> None:
    status = RUNNING
    delays = []
    of = checkpoint({"spec.retries": 9})
    for number in range(1, 9):
        found = decided(attempt(ended(0, failed()), number=number, of=of), of=of, status=status)
        assert found.wake_at is not None
        delays.append((found.wake_at - NOW).total_seconds())
        status = found.status
    assert delays == [5, 10, 20, 40, 80, 160, 300, 300]


def test_a_preempted_attempt_is_not_counted() -> None:
    of = checkpoint({"spec.retries": 0})
    status = RUNNING
    for number in (1, 2, 3):
        pod = ended(0, Report(terminated=True), disrupted="PreemptionByScheduler")
        found = decided(attempt(pod, number=number, of=of), of=of, status=status)
        assert phase(found) == ("Pending", "WorkerLost")
        status = found.status
    assert found.status["retries"] | {"nextTime": ""} == {"lastEnded": 3, "uncounted": 3, "nextTime": ""}


def test_uncounted_attempts_have_an_end_as_well() -> None:
    of = checkpoint({"spec.retries": 0})
    status = RUNNING
    pod = ended(0, Report(terminated=True), disrupted="EvictionByEvictionAPI")
    for number in range(1, 101):
        found = decided(attempt(pod, number=number, of=of), of=of, status=status)
        assert phase(found) == ("Pending", "WorkerLost")
        status = found.status
    found = decided(attempt(pod, number=101, of=of), of=of, status=status)
    assert phase(found) == ("Failed", "WorkerLost")
    assert "That was the last of 101 attempts that are not counted." in message(found)


def test_a_pod_that_its_node_evicts_for_what_it_uses_is_counted() -> None:
    of = checkpoint({"spec.retries": 0})
    text = "Evicted: The node was low on resource: memory. Container worker was using 3Gi, request is 0."
    found = after_first_attempt(
        ended(0, Report(terminated=True), disrupted="TerminationByKubelet", rejected=text), of=of
    )
    assert phase(found) == ("Failed", "WorkerLost")
    assert f"was ended by its kubelet: {text}" in message(found)


def test_two_ends_at_once_are_settled_in_order() -> None:
    one, two = attempt(ended(0, failed())), attempt(ended(0, failed(Reason.RANK_HUNG)), number=2)
    found = decided(two, one)
    assert phase(found) == ("Pending", "RankHung")
    assert (found.status["retries"]["failed"], found.status["attempts"]) == (2, 2)


def test_the_deadline() -> None:
    pods = (ended(0, failed()), running(1))
    found = decided(attempt(running(0), running(1)), status=RUNNING, now=at(3630))
    assert phase(found) != ("Running", None)
    assert found.status["failure"]["reason"] == "DeadlineExceeded"
    assert (
        "ran longer than timeouts.activeSeconds (3600 s); pod pod-0 has not ended" in found.status["failure"]["message"]
    )
    assert phase(decided(attempt(*pods), status=RUNNING, now=at(3630))) == ("Pending", "RankFailed")


def test_a_pod_that_is_given_up_is_named_while_the_others_are_awaited() -> None:
    live = attempt(running(0), running(1, deleting=at(0)))
    assert decided(live, status=RUNNING, now=at(29)).wake_at == at(30)
    found = decided(live, status=RUNNING, now=at(30))
    assert phase(found) == ("Running", None)
    assert message(found) == "Attempt 1: pod pod-1 on node node-1 is lost; the others' Reports are awaited."
    assert found.wake_at == at(90)
    assert decided(live, status=found.status, now=at(90)).status["failure"]["reason"] == "WorkerLost"


def test_a_lost_report_costs_one_uncounted_probe() -> None:
    of = checkpoint({"spec.retries": 0})
    first = decided(attempt(ended(0, exit_code=137), of=of), of=of, status=RUNNING)
    assert created(first) == [(2, True)]
    assert phase(first) == ("Starting", None)
    assert "looks whether the lost attempt had committed" in message(first)
    assert [each.reason for each in first.events] == ["WorkerLost", "Starting"]
    again = decided(attempt(ended(0, exit_code=137), of=of), of=of, status=first.status)
    assert created(again) == [(2, True)]

    found = decided(attempt(ended(0, saved()), number=2, of=of, probe=True), of=of, status=first.status, now=at(20))
    assert phase(found) == ("Succeeded", "Saved")

    empty = decided(attempt(ended(0, Report()), number=2, of=of, probe=True), of=of, status=first.status, now=at(20))
    assert phase(empty) == ("Failed", "WorkerLost")
    assert empty.status["failure"]["attempt"] == 1


def lost() -> Mapping[str, Any]:
    """Return the status after the one attempt of a Save lost its Report."""
    of = checkpoint({"spec.retries": 0})
    return decided(attempt(ended(0, exit_code=137), of=of), of=of, status=RUNNING).status


@pytest.mark.parametrize(
    ("pod", "says"),
    [
        pytest.param(ended(0), "ended with exit code 1 and did not report why", id="silent"),
        pytest.param(ended(0, Report(terminated=True)), "told to stop", id="told to stop"),
        pytest.param(ended(0, disrupted="PreemptionByScheduler"), "disrupted", id="preempted"),
        pytest.param(ended(0, failed(Reason.STORAGE_UNAVAILABLE, rank=None)), "StorageUnavailable here", id="no store"),
    ],
)
def test_a_probe_that_could_not_look_is_repeated_and_in_the_end_says_so(pod: Pod, says: str) -> None:
    of = checkpoint({"spec.retries": 0})
    status = lost()
    for number, delay in ((2, 10), (3, 20)):
        found = decided(attempt(pod, number=number, of=of, probe=True), of=of, status=status)
        assert phase(found) == ("Pending", "WorkerLost")
        assert found.wake_at == at(delay)
        status = found.status
        assert created(decided(of=of, status=status, now=at(delay))) == [(number + 1, True)]
    empty = decided(attempt(ended(0, Report()), number=4, of=of, probe=True), of=of, status=status)
    assert phase(empty) == ("Failed", "WorkerLost")
    assert "could not be found out" not in message(empty)
    found = decided(attempt(pod, number=4, of=of, probe=True), of=of, status=status)
    assert phase(found) == ("Failed", "WorkerLost")
    assert "Whether the save was committed could not be found out" in message(found)
    assert says in message(found)
    assert found.status["failure"]["attempt"] == 1


def test_a_probe_that_another_can_not_mend_is_not_repeated() -> None:
    of = checkpoint({"spec.retries": 0})
    pod = ended(0, failed(Reason.STORAGE_DENIED, rank=None))
    found = decided(attempt(pod, number=2, of=of, probe=True), of=of, status=lost())
    assert phase(found) == ("Failed", "WorkerLost")
    assert "could not be found out" in message(found)
    assert "StorageDenied here" in message(found)


def test_where_retries_are_left_they_find_out_what_the_probe_could_not() -> None:
    status = after_first_attempt(ended(0, exit_code=137)).status
    denied = ended(0, failed(Reason.STORAGE_DENIED, rank=None))
    found = decided(attempt(denied, number=2, probe=True), status=status)
    assert phase(found) == ("Pending", "WorkerLost")
    assert created(decided(status=found.status, now=at(60))) == [(3, False)]


def test_after_an_empty_probe_the_retries_go_on() -> None:
    first = decided(attempt(ended(0, oom_killed=True)), status=RUNNING)
    second = decided(attempt(ended(0, Report()), number=2, probe=True), status=first.status)
    assert phase(second) == ("Pending", "OutOfMemory")
    third = decided(status=second.status, now=at(60))
    assert created(third) == [(3, False)]
    assert third.status["retries"]["failed"] == 1


def test_a_lost_report_of_a_load_needs_no_probe() -> None:
    of = checkpoint({"spec.operation": "Load"})
    found = decided(attempt(ended(0), of=of), of=of, status=RUNNING)
    assert phase(found) == ("Pending", "WorkerLost")


def conflict(origin: Origin | None) -> Report:
    return Report(conflict=Conflict(save_id="s0", origin=origin))


@pytest.mark.parametrize(
    ("origin", "text"),
    [
        pytest.param(None, "Write another spec.storage.url, or save.ifExists: Replace", id="unknown"),
        pytest.param(
            Origin(namespace="team", name="other", uid="u"), "saved by Checkpoint team/other (uid u)", id="other"
        ),
        pytest.param(
            Origin(namespace="team", name="save-1000", uid="old"),
            "an earlier Checkpoint object of this same name",
            id="old",
        ),
        pytest.param(
            Origin(namespace="team", name="save-1000", uid=UID, run_id="0"),
            "this Checkpoint's own, of run '0'",
            id="rerun",
        ),
    ],
)
def test_a_conflict_says_who_is_there_and_how_to_go_on(origin: Origin | None, text: str) -> None:
    found = after_first_attempt(ended(0, conflict(origin)), ended(1, failed(Reason.WORKER_LOST, rank=1)))
    assert phase(found) == ("Conflict", "OverwriteConflict")
    assert true(found) == {"Stalled", "Failed"}
    assert message(found).startswith(f"Checkpoint already exists at {URL}")
    assert text in message(found)
    assert found.status["conflict"]["saveId"] == "s0"
    later = decided(status=found.status, now=at(9000))
    assert (later.status, created(later)) == (found.status, [])


def test_a_conflict_with_oneself_is_a_success() -> None:
    found = after_first_attempt(ended(0, conflict(checkpoint().origin)))
    assert phase(found) == ("Succeeded", "Saved")
    assert found.status["checkpoint"]["saveId"] == "s0"
