"""What people do under way: suspend, rerun, change, delete, and ask for what is refused."""

from dataclasses import replace
from typing import Any

import pytest

from dcp_contract.reasons import Reason
from dcp_contract.report import Report
from dcp_operator.api.checkpoint.spec import Checkpoint
from dcp_operator.api.checkpoint.status import Status
from dcp_operator.controllers.checkpoint.actions import CheckpointDecision, CreateAttempt
from dcp_operator.controllers.checkpoint.decide import decide
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed
from dcp_operator.controllers.checkpoint.url_conflicts import UrlClaim
from scenes import (
    NOW,
    RUNNING,
    SAVED_PODS,
    STARTED,
    after_first_attempt,
    at,
    attempt,
    checkpoint,
    created,
    decided,
    deleted,
    ended,
    failed,
    message,
    phase,
    refused,
    running,
    saved,
    true,
)


def test_suspend_before_the_start() -> None:
    of = checkpoint({"spec.suspend": True})
    found = decided(of=of)
    assert (phase(found), found.actions) == (("Suspended", "Suspended"), ())
    assert true(found) == {"Suspended"}
    assert created(decided(status=found.status)) == [(1, False)]


def test_suspend_while_running_stops_the_attempt_and_counts_nothing() -> None:
    of = checkpoint({"spec.suspend": True, "spec.retries": 0})
    live = attempt(running(0), running(1), of=of)
    first = decided(live, of=of, status=RUNNING)
    assert phase(first) == ("Suspended", "Suspended")
    assert (first.actions, first.wake_at) == ((), NOW)
    second = decided(live, of=of, status=first.status)
    assert deleted(second) == [1]
    assert second.status == first.status
    resumed = decided(status=second.status)
    assert created(resumed) == [(2, False)]
    assert "failed" not in resumed.status["retries"]


def test_a_commit_beats_suspend() -> None:
    of = checkpoint({"spec.suspend": True})
    assert phase(decided(attempt(ended(0, saved()), running(1), of=of), of=of, status=RUNNING)) == (
        "Succeeded",
        "Saved",
    )


def test_a_new_run_starts_afresh() -> None:
    done = after_first_attempt(ended(0, failed(Reason.STORAGE_DENIED)))
    of = checkpoint({"spec.runId": "2"})
    old = attempt(ended(0, failed(Reason.STORAGE_DENIED)))
    found = decided(old, of=of, status=done.status, now=at(50))
    assert deleted(found) == [1]
    assert created(found) == [(1, False)]
    assert found.status["runId"] == "2"
    assert found.status["startTime"] == "2026-11-24T08:00:50Z"
    assert not {"failure", "completionTime", "durationSeconds"} & found.status.keys()
    (create,) = (each for each in found.actions if isinstance(each, CreateAttempt))
    assert create.job_name != old.job_name


@pytest.mark.adversary
@pytest.mark.parametrize("pods", [SAVED_PODS, (running(0), running(1))])
def test_a_run_id_that_comes_again_takes_no_earlier_report(pods: Any) -> None:
    """A, B and A again within a moment: the Job of the first A still stands there, under the very name of the next."""
    old = attempt(*pods, generation=1, uid="old")
    before = decided(old, status=STARTED)
    other = decided(old, of=checkpoint({"spec.runId": "b", "metadata.generation": 2}), status=before.status)
    again = checkpoint({"metadata.generation": 3})
    for each in (old, replace(old, deleting=True)):
        found = decided(each, of=again, status=other.status)
        assert (phase(found), created(found)) == (("Pending", None), [])
        assert message(found) == f"Attempt 1 starts when Job {old.job_name} has stopped."
        assert deleted(found) == ([] if each.deleting else [1])
        assert deleted(decided(each, of=again, status=found.status)) == deleted(found)
    started = decided(of=again, status=found.status)
    assert (created(started), started.status["runGeneration"]) == ([(1, False)], 3)
    new = attempt(*SAVED_PODS, generation=3, uid="new")
    assert phase(decided(new, of=again, status=started.status)) == ("Succeeded", "Saved")
    # The operator died before it had written that status, and something else was changed since.
    later = checkpoint({"metadata.generation": 4})
    assert phase(decided(new, of=later, status=other.status)) == ("Succeeded", "Saved")


@pytest.mark.adversary
def test_a_job_that_was_put_in_place_of_one_that_was_seen_is_no_attempt() -> None:
    """Whoever may delete and create Jobs would answer for an attempt that ran."""
    seen = decided(attempt(running(0), running(1), uid="ours"), status=STARTED)
    forged = attempt(*SAVED_PODS, uid="forged")
    found = decided(forged, status=seen.status)
    assert found.status["failure"]["reason"] == "WorkerLost"
    assert created(found) == [(2, True)], "it is looked whether the first had committed"


def test_a_new_run_starts_when_nothing_of_the_old_one_runs_any_more() -> None:
    of = checkpoint({"spec.runId": "2"})
    old = attempt(running(0), running(1))
    found = decided(old, of=of, status=RUNNING)
    assert (deleted(found), created(found)) == ([1], [])
    assert phase(found) == ("Pending", None)
    assert message(found) == f"Attempt 1 starts when Job {old.job_name} has stopped."
    going = decided(replace(old, deleting=True), of=of, status=found.status)
    assert (going.status, going.actions) == (found.status, ())

    left = Observed(leftover=(running(0, deleting=at(60)), ended(1), running(2, started=None)))
    waits = decide(of, left, found.status, at(9))
    assert message(waits) == "Attempt 1 starts when pod pod-0 has stopped."
    assert (waits.actions, waits.wake_at) == ((), at(90))
    assert created(decide(of, left, waits.status, at(90))) == [(1, False)]
    assert created(decided(of=of, status=waits.status)) == [(1, False)]


@pytest.mark.parametrize(
    ("old", "spec"),
    [
        pytest.param(attempt(running(0), running(1)), {"spec.suspend": True}, id="suspended"),
        pytest.param(attempt(ended(0), running(1)), {}, id="to be looked for by a probe"),
    ],
)
def test_an_attempt_starts_when_nothing_of_the_one_before_runs_any_more(old: Attempt, spec: dict[str, Any]) -> None:
    first = decided(old, of=checkpoint(spec), status=RUNNING, now=at(60))
    found = decided(old, status=first.status, now=at(60))
    assert (phase(found)[0], deleted(found), created(found)) == ("Pending", [1], [])
    assert [number for number, _ in created(decided(status=found.status, now=at(60)))] == [2]


CHANGES = pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec.workload.args": {"hidden": 1}}, id="args"),
        pytest.param({"spec.workers.podTemplate": {"metadata": {}}}, id="a template that a webhook rewrites"),
        pytest.param({"spec.storage.options": None}, id="an option that a rolled back CRD drops"),
    ],
)
BEFORE = checkpoint({"spec.storage.options": {"region": "eu-1"}})


def after(changes: dict[str, Any]) -> Checkpoint:
    return checkpoint({"spec.storage.options": {"region": "eu-1"}} | changes)


def told(decision: CheckpointDecision) -> str:
    """Return what a status says of the spec beside it."""
    return next((each["message"] for each in decision.status["conditions"] if each["type"] == "SpecChanged"), "")


def under_way(*pods: Any, **fields: Any) -> Attempt:
    return attempt(*pods, of=BEFORE, digest=BEFORE.free_form_digest, **fields)


def begun() -> CheckpointDecision:
    return decided(under_way(running(0), running(1)), of=BEFORE, status=decided(of=BEFORE).status)


@pytest.mark.adversary
@CHANGES
def test_an_attempt_under_way_ends_on_the_spec_that_it_began_with(changes: dict[str, Any]) -> None:
    of = after(changes)
    live = decided(under_way(running(0), running(1)), of=of, status=begun().status)
    assert (phase(live), live.actions) == (("Running", None), ())
    assert [(each.type, each.reason) for each in live.events] == [("Warning", "SpecChanged")]
    again = decided(under_way(running(0), running(1)), of=of, status=live.status)
    assert (again.status, again.events) == (live.status, ())

    done = decided(under_way(*SAVED_PODS), of=of, status=live.status)
    assert phase(done) == ("Succeeded", "Saved")
    assert done.status["freeFormDigest"] == BEFORE.free_form_digest
    assert f"about the spec that the run began with (freeFormDigest {BEFORE.free_form_digest})" in told(done)
    assert told(decided(of=BEFORE, status=done.status)) == "", "it is the one of the result again"


@CHANGES
def test_a_result_tells_of_which_spec_it_is(changes: dict[str, Any]) -> None:
    done = decided(under_way(*SAVED_PODS), of=BEFORE, status=begun().status)
    assert told(done) == ""
    later = decided(of=after(changes), status=done.status)
    assert phase(later) == ("Succeeded", "Saved")
    assert (BEFORE.free_form_digest in told(later), later.actions) == (True, ())
    without = [each for each in later.status["conditions"] if each["type"] != "SpecChanged"]
    assert later.status | {"conditions": without} == done.status
    assert refused(status=later.status).status == later.status | {"observedGeneration": 2}, "nor is it lost"


@CHANGES
def test_what_the_status_missed_the_job_tells(changes: dict[str, Any]) -> None:
    """The operator died after it had created the Job."""
    for pods in ((running(0), running(1)), SAVED_PODS):
        found = decided(under_way(*pods), of=after(changes))
        assert found.status["freeFormDigest"] == BEFORE.free_form_digest
        assert told(found)


@CHANGES
def test_no_further_attempt_is_made_of_a_spec_that_changed_under_way(changes: dict[str, Any]) -> None:
    of = after(changes)
    lost = decided(under_way(ended(0, failed()), ended(1, Report())), of=of, status=begun().status)
    found = decided(of=of, status=lost.status, now=at(600))
    assert (phase(found), found.actions) == (("Pending", "InvalidSpec"), ())
    assert message(found).startswith("Attempt 2 waits: spec.workload.args, spec.storage.options or spec.workers.pod")
    assert told(found)
    claim = UrlClaim.of(of, Status.read(found.status))
    assert claim is not None
    assert claim.ending, "others of the namespace may save there"

    back = decided(of=BEFORE, status=found.status, now=at(600))
    assert (created(back), told(back)) == ([(2, False)], "")
    anew = after(changes | {"spec.runId": "2"})
    fresh = decided(of=anew, status=found.status, now=at(600))
    assert (created(fresh), told(fresh)) == ([(1, False)], "")
    assert fresh.status["freeFormDigest"] == anew.free_form_digest


@CHANGES
def test_a_spec_that_changes_before_it_began_is_just_that_spec(changes: dict[str, Any]) -> None:
    waits = decided(of=after({"spec.suspend": True}))
    found = decided(of=after(changes), status=waits.status)
    assert (created(found), told(found)) == ([(1, False)], "")


def test_jobs_go_when_their_time_is_over_and_never_before_their_report_is_written() -> None:
    job = attempt(*SAVED_PODS)
    done = decided(job, status=RUNNING)
    assert done.wake_at == at(86_400)
    assert decided(job, status=done.status, now=at(86_399)).actions == ()
    assert deleted(decided(job, status=done.status, now=at(86_400))) == [1]
    assert deleted(decided(job, status=RUNNING, now=at(86_400))) == []
    assert decided(status=done.status, now=at(86_400)).wake_at is None


@pytest.mark.adversary
def test_jobs_may_stay() -> None:
    kept = checkpoint({"spec.ttlSecondsAfterFinished": -1})
    done = decided(attempt(ended(0, saved())), of=kept, status=RUNNING)
    assert (done.wake_at, decided(attempt(ended(0, saved())), of=kept, status=done.status, now=at(9e8)).actions) == (
        None,
        (),
    )


def test_pods_that_outlive_a_success_are_stopped_after_a_minute() -> None:
    job = attempt(ended(0, saved()), running(1))
    done = decided(job, status=RUNNING)
    assert done.wake_at == at(60)
    assert deleted(decided(job, status=done.status, now=at(59))) == []
    assert deleted(decided(job, status=done.status, now=at(60))) == [1]


def test_pods_that_outlive_a_failure_are_stopped_at_once() -> None:
    job = attempt(ended(0, failed()), running(1))
    first = decided(job, status=RUNNING, now=at(60))
    assert (deleted(first), first.wake_at) == ([], at(60))
    assert deleted(decided(job, status=first.status, now=at(60))) == [1]


def test_what_is_being_deleted_is_not_deleted_again() -> None:
    job = attempt(ended(0, saved()), deleting=True)
    assert decided(job, status=after_first_attempt(ended(0, saved())).status, now=at(9e6)).actions == ()


def test_a_spec_without_a_meaning() -> None:
    found = refused()
    assert phase(found) == ("Failed", "InvalidSpec")
    assert true(found) == {"Stalled", "Failed"}
    assert "write 'Save'" in message(found)
    assert found.status["observedGeneration"] == 2
    assert [(each.type, each.reason) for each in found.events] == [("Warning", "InvalidSpec")]
    again = refused(status=found.status)
    assert (again.status, again.events) == (found.status, ())


def test_a_mended_spec_is_worked_on() -> None:
    found = decided(status=refused().status, now=at(9))
    assert created(found) == [(1, False)]
    assert phase(found) == ("Starting", None)
    assert "completionTime" not in found.status


def test_a_result_stays_whatever_becomes_of_the_spec() -> None:
    done = after_first_attempt(ended(0, saved()))
    assert refused(status=done.status).status == done.status | {"observedGeneration": 2}
