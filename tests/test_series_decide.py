"""What to do for a series now: tables over the pure decision."""

from typing import Any

import pytest

from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.status import SeriesStatus
from dcp_operator.controllers.series.decide import refuse, wait_for_creation
from dcp_operator.controllers.series.runs import Runs, SeriesRun
from scenes import stamp
from series_scenes import Changes, created, decided, deleted, hours, ready, run, series, series_manifest

DONE, FAILED = Phase.SUCCEEDED, Phase.FAILED


@pytest.mark.parametrize(
    ("changes", "runs", "hour", "begins", "missed"),
    [
        pytest.param({}, [], 0.5, None, 0, id="not yet"),
        pytest.param({}, [], 1, 1, 0, id="due"),
        pytest.param({"spec.immediate": True}, [], 0, 0, 0, id="at once"),
        pytest.param({"spec.immediate": True}, [], 0.5, 0, 0, id="at once, seen late"),
        pytest.param({"spec.immediate": True}, [run(0, DONE)], 0.5, None, 0, id="at once, and once"),
        pytest.param({}, [run(1, DONE)], 1.9, None, 0, id="done"),
        pytest.param({}, [run(1)], 2, None, 0, id="Forbid waits"),
        pytest.param({}, [run(1)], 3.5, None, 1, id="Forbid waits, and the time before is missed"),
        pytest.param({}, [run(1, DONE, took=1.5)], 2.6, 2, 0, id="Forbid goes on"),
        pytest.param({"spec.concurrencyPolicy": "Allow"}, [run(1)], 2, 2, 0, id="Allow"),
        pytest.param({"spec.concurrencyPolicy": "Replace"}, [run(1)], 2, 2, 0, id="Replace"),
        pytest.param({}, [run(1, deleting=True)], 2, 2, 0, id="what is being deleted keeps nobody"),
        pytest.param({"spec.suspend": True}, [], 1, None, 0, id="suspended"),
        pytest.param({"spec.suspend": True}, [], 3.5, None, 2, id="suspended for long"),
        pytest.param({}, [], 500.5, 500, 100, id="never a burst, and a bounded count"),
        pytest.param({"spec.startingDeadlineSeconds": 600}, [], 1.1, 1, 0, id="in time"),
        pytest.param({"spec.startingDeadlineSeconds": 600}, [], 1.5, None, 1, id="too late"),
        pytest.param({"spec.startingDeadlineSeconds": 600}, [run(1)], 3.5, None, 2, id="too late behind another"),
        pytest.param({"spec.startingDeadlineSeconds": 7200}, [], 2.5, 2, 1, id="the latest alone is made up for"),
    ],
)
def test_which_run_begins(
    changes: Changes, runs: list[SeriesRun], hour: float, begins: float | None, missed: int
) -> None:
    decision = decided(*runs, of=series(changes), now=hours(hour))
    assert created(decision) == ([] if begins is None else [run(begins).name])
    status = SeriesStatus.read(decision.status)
    assert (status.missed.count if status.missed else 0) == missed
    # The same again, on what was written and made: nothing more.
    there = [*runs, *([run(begins)] if begins is not None else [])]
    again = decided(*there, of=series(changes), status=decision.status, now=hours(hour))
    assert created(again) == []
    assert SeriesStatus.read(again.status).missed == status.missed


def test_a_run_that_no_status_tells_of_is_counted_as_if_one_did() -> None:
    """The operator ended between the creation and the status."""
    before = decided(now=hours(1)).status
    whole = decided(run(1, DONE), status=before, now=hours(3.5))
    assert created(whole) == [run(3).name]
    lost = decided(run(1, DONE), run(3), status=before, now=hours(3.5))
    assert created(lost) == []
    assert lost.status == whole.status


def test_runs_that_no_status_tells_of_were_not_missed() -> None:
    """The operator ended between creation and status, and did so again an hour later."""
    decision = decided(run(1), run(3), of=series({"spec.concurrencyPolicy": "Allow"}), now=hours(3.5))
    assert decision.status["missed"] == {"count": 1, "lastTime": "2026-11-24T10:00:00Z"}


def test_missed_times_are_counted_once_and_told_once() -> None:
    status: dict[str, Any] = {}
    events = []
    for hour in (1.5, 2.5, 2.5, 4.5, 4.6):
        decision = decided(run(1), status=status, now=hours(hour))
        status = decision.status
        events += [each.message for each in decision.events if each.reason == "RunMissed"]
    assert status["missed"] == {"count": 2, "lastTime": "2026-11-24T11:00:00Z"}
    assert events == ["2 scheduled times were missed, the latest at 2026-11-24 11:00:00Z."]


YEARS = 40_000


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("runs", "status"),
    [
        pytest.param([run(YEARS, DONE)], {}, id="a run"),
        pytest.param([run(YEARS, DONE), run(3, DONE)], {"lastScheduleTime": stamp(YEARS * 3600)}, id="the status, too"),
        pytest.param([], {"missed": {"count": 7, "lastTime": stamp(YEARS * 3600)}}, id="times that were missed"),
        pytest.param([], {"scheduleSince": stamp(YEARS * 3600)}, id="the schedule"),
    ],
)
def test_a_time_in_the_far_future_stops_no_series(runs: list[SeriesRun], status: dict[str, Any]) -> None:
    """By a clock that was wrong for a moment, or by a Checkpoint that somebody has made one of the series."""
    before = decided(run(3, DONE), now=hours(3.5)).status | status
    first = decided(*runs, status=before, now=hours(3.6))
    assert created(first) == []
    again = decided(*runs, status=first.status, now=hours(3.9))
    assert created(again) == []
    assert str(again.status.get("lastScheduleTime", "2026")).startswith("2026")
    assert created(decided(*runs, status=again.status, now=hours(4))) == [run(4).name]
    # What was begun for a time that comes again is not begun twice.
    assert created(decided(*runs, run(4, DONE), status=again.status, now=hours(4))) == []


def test_a_clock_that_is_set_back_a_little_begins_nothing_twice() -> None:
    before = decided(run(3, DONE), now=hours(3.01)).status
    for back in (2.99, 2.9):
        assert created(decided(status=before, now=hours(back))) == []


def test_a_schedule_that_was_changed_misses_nothing_of_before() -> None:
    seen = decided(run(1, DONE), now=hours(1.5)).status
    often = series({"spec.every": "5m"})
    decision = decided(run(1, DONE), of=often, status=seen, now=hours(1.51))
    assert created(decision) == []
    assert "missed" not in decision.status
    assert SeriesStatus.read(decision.status).next == hours(19 / 12)


def test_replace_deletes_what_a_newer_run_replaces_also_after_a_crash() -> None:
    of = series({"spec.concurrencyPolicy": "Replace"})
    decision = decided(run(1), of=of, now=hours(2))
    assert (created(decision), deleted(decision)) == ([run(2).name], [run(1).name])
    assert decision.status["active"] == [run(2).name]
    # It was created, and then the operator ended.
    decision = decided(run(1), run(2), of=of, now=hours(2.1))
    assert (created(decision), deleted(decision)) == ([], [run(1).name])
    assert deleted(decided(run(1), run(2), of=series(), now=hours(2.1))) == []


def test_history_keeps_the_newest_and_never_what_runs() -> None:
    runs = [run(hour, DONE) for hour in range(1, 6)] + [run(hour, FAILED) for hour in range(6, 9)] + [run(9)]
    decision = decided(*runs, now=hours(9.5))
    assert deleted(decision) == [run(hour).name for hour in (2, 1, 7, 6)]
    none = decided(*runs, of=series({"spec.historyLimit": {"successful": 1, "failed": 0}}), now=hours(9.5))
    assert deleted(none) == [run(hour).name for hour in (4, 3, 2, 1, 8, 7, 6)]
    assert none.status["lastFailure"]["name"] == run(8).name
    # The failure is told of when its Checkpoint is gone.
    left = [each for each in runs if each.name not in deleted(none)]
    assert decided(*left, status=none.status, now=hours(9.6)).status["lastFailure"] == none.status["lastFailure"]


def test_what_is_not_of_the_schedule_is_left_alone() -> None:
    """A Checkpoint that somebody else made one of the series."""
    other = run(1, DONE, name="nightly-by-hand", scheduled=None)
    of = series({"spec.historyLimit": {"successful": 1, "failed": 0}})
    assert deleted(decided(other, run(2, DONE), of=of, now=hours(2.5))) == []


def test_the_latest_is_the_one_that_was_committed_last() -> None:
    """Not the one that was due last: with Allow an earlier run may commit after a later one."""
    slow = run(1, DONE, took=2, step=7)
    decision = decided(slow, run(2, DONE), run(3, FAILED), run(4), now=hours(4.5))
    assert decision.status["latest"] == {
        "name": slow.name,
        "url": "s3://bucket/run/20261124-090000",
        "step": 7,
        "time": "2026-11-24T11:00:00Z",
    }
    verified = run(5, DONE, operation="Verify")
    assert decided(slow, verified, now=hours(5.5)).status["latest"]["name"] == slow.name
    assert "latest" not in decided(verified, now=hours(5.5)).status


@pytest.mark.parametrize(
    ("changes", "runs", "hour", "expected"),
    [
        ({}, [], 0.5, ("True", "Scheduled", "The next run is due at 2026-11-24 09:00:00Z.")),
        ({}, [run(1)], 1.5, ("True", "Scheduled", "nightly-20261124-090000 is under way. The next run is due at ")),
        ({}, [run(1)], 2, ("True", "Scheduled", "nightly-20261124-090000 is under way. The run of 2026-11-24 10:")),
        ({}, [run(1, DONE)], 1.5, ("True", "Scheduled", "Latest checkpoint: s3://bucket/run/20261124-090000. The ")),
        (
            {},
            [run(1, DONE), run(2, FAILED)],
            2.5,
            ("False", "LastRunFailed", "nightly-20261124-100000 failed: StorageDenied: The store refused the cred"),
        ),
        ({}, [run(1, FAILED), run(2, DONE)], 2.5, ("True", "Scheduled", "Latest checkpoint: s3://bucket/run/2026")),
        ({"spec.suspend": True}, [], 2.5, ("False", "Suspended", "spec.suspend is true: no run begins.")),
        (
            {"spec.suspend": True},
            [run(1, FAILED)],
            2.5,
            ("False", "Suspended", "nightly-20261124-090000 failed: StorageDenied: "),
        ),
    ],
)
def test_how_it_stands(changes: Changes, runs: list[SeriesRun], hour: float, expected: tuple[str, str, str]) -> None:
    status, reason, message = ready(decided(*runs, of=series(changes), now=hours(hour)))
    assert (status, reason) == expected[:2]
    assert message.startswith(expected[2]), message


def test_conditions_are_what_kstatus_reads() -> None:
    def states(decision: Any) -> set[str]:
        return {each["type"] for each in decision.status["conditions"] if each["status"] == "True"}

    assert states(decided(now=hours(0.5))) == {"Ready"}
    assert states(decided(run(1, FAILED), now=hours(1.5))) == {"Stalled"}
    assert states(decided(of=series({"spec.suspend": True}))) == {"Suspended"}


def test_when_it_is_decided_again() -> None:
    assert decided(now=hours(0.5)).wake_at == hours(1)
    assert decided(run(1), now=hours(1.5)).wake_at == hours(2)
    late = series({"spec.startingDeadlineSeconds": 600})
    assert decided(run(1), of=late, now=hours(2.1)).wake_at == hours(2 + 1 / 6)
    assert decided(of=series({"spec.suspend": True}), now=hours(1)).wake_at is None


def test_a_run_that_can_not_be_created_stays_due() -> None:
    of, runs = series({"spec.concurrencyPolicy": "Replace"}), Runs(all=(run(1), run(0.5, DONE)))
    before = decided(*runs.all, of=of, now=hours(1.5)).status
    decision = decided(*runs.all, of=of, status=before, now=hours(2))
    waiting = wait_for_creation(of, runs, before, decision, "exceeded quota: none", hours(2))
    assert (created(waiting), deleted(waiting)) == ([], []), "what it was to replace goes on"
    assert ready(waiting)[1:] == (
        "RunRefused",
        "The Checkpoint nightly-20261124-100000 can't be created: exceeded quota: none. It is tried again.",
    )
    assert waiting.status["lastScheduleTime"] == "2026-11-24T09:00:00Z"
    assert waiting.wake_at == hours(2 + 1 / 120)
    again = decided(*runs.all, of=of, status=waiting.status, now=hours(2.9))
    assert created(again) == [run(2).name]
    # Half an hour later it is tried every three minutes.
    assert wait_for_creation(of, runs, before, again, "no", hours(2.5)).wake_at == hours(2.55)


def test_a_spec_that_is_wrong_begins_nothing_and_says_so() -> None:
    body = series_manifest() | {"status": decided(run(1), now=hours(1.5)).status}
    error = SpecError(["spec.every: is wrong; write another"])
    decision = refuse(error, body, Runs(all=(run(1),)), hours(2))
    assert decision.actions == ()
    assert ready(decision) == ("False", "InvalidSpec", "spec.every: is wrong; write another")
    assert decision.status["active"] == [run(1).name]
    assert "next" not in decision.status
    assert ready(refuse(SpecError(["x"], configured=True), body, Runs(), hours(2)))[1] == "NotEnabled"
    unwritable = refuse(SpecError(["x"], writable=False), body, Runs(), hours(2))
    assert unwritable.status == body["status"]
    assert unwritable.events


def test_a_status_of_another_version_is_read_as_far_as_it_goes() -> None:
    status = decided(run(1), now=hours(1.5)).status | {"missed": "many", "newer": 1}
    assert created(decided(run(1, DONE), status=status, now=hours(2))) == [run(2).name]
