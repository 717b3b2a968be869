"""What saves of a training become Checkpoints of a series, which are refused, and when an agent need not list them."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.training import EndedSave
from dcp_operator.api.checkpoint.parsing import parse as parse_checkpoint
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.naming import REPORTED_LABEL, SERIES_LABEL, report_name, scheduled_time
from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import RefusedSave, SeriesStatus
from dcp_operator.controllers.series.actions import CreateRemoval, CreateReport, SeriesDecision
from dcp_operator.controllers.series.adoption import (
    LOST,
    MOST,
    MOST_A_MINUTE,
    SAID,
    TURN,
    heard,
    is_settled,
)
from dcp_operator.controllers.series.decide import decide
from dcp_operator.controllers.series.history import YOUNG
from dcp_operator.controllers.series.runs import Runs, SeriesRun
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.controllers.target.reported import save_of
from dcp_operator.objects.series_run import checkpoint_of_report
from report_scenes import ADOPTS, agent, failed, own, report
from scenes import NOW
from series_scenes import PREFIX, deleted, hours, ready, run, series
from series_world import save_id

TAKES: Final = series(ADOPTS)
DONE: Final[dict[str, Any]] = {"phase": Phase.SUCCEEDED, "ended": NOW}


def decided(
    *agents: ConnectedAgent,
    runs: tuple[SeriesRun, ...] = (),
    of: Series = TAKES,
    status: Mapping[str, Any] | None = None,
    now: datetime = NOW,
) -> SeriesDecision:
    return decide(of, Runs(all=runs, heard=heard(of, agents)), status or {}, now)


def told(decision: SeriesDecision) -> list[str]:
    return [each.url for each in decision.actions if isinstance(each, CreateReport)]


def refused(decision: SeriesDecision) -> str:
    found = SeriesStatus.read(decision.status).refused_save
    return found.message if found is not None else ""


def settled(
    ended: EndedSave, *runs: SeriesRun, of: Series = TAKES, by: ConnectedAgent | None = None, **status: Any
) -> bool:
    said = SeriesStatus.read(status)
    return is_settled(of, Runs(all=runs), said, by or agent(ended), ended, NOW)


def test_a_save_becomes_a_checkpoint_that_asks_for_nothing_and_says_which_it_is() -> None:
    of = series({**ADOPTS, "spec.template.metadata": {"labels": {"team": "x"}, "annotations": {"a": "b"}}})
    found = decided(agent(own(5)), of=of)
    (action,) = [each for each in found.actions if isinstance(each, CreateReport)]
    body = checkpoint_of_report(of, action)
    assert body["spec"] == {
        "operation": "Save",
        "target": {"kind": "Job", "name": "train"},
        "storage": {"url": f"{PREFIX}/step-5"},
    }
    labels = body["metadata"]["labels"]
    assert (labels[REPORTED_LABEL], labels[SERIES_LABEL], labels["team"]) == (save_id("step-5"), "nightly", "x")
    assert body["metadata"]["annotations"] == {"a": "b"}
    assert body["metadata"]["name"].startswith("nightly-step-5-")
    parsed = parse_checkpoint(body)
    assert parsed.reported == save_id("step-5")
    seen = SeriesRun.of({**body, "metadata": body["metadata"] | {"uid": "u"}}, "nightly")
    assert (seen.reports, seen.scheduled, seen.made) == (save_id("step-5"), None, True)
    assert SeriesRun.of({**body, "metadata": body["metadata"] | {"uid": "u"}}, "nightly") not in Runs.of([seen]).active


@pytest.mark.parametrize(
    ("by", "of", "urls"),
    [
        pytest.param(agent(own(5)), TAKES, [f"{PREFIX}/step-5"], id="a save of its target"),
        pytest.param(agent(failed(5)), TAKES, [f"{PREFIX}/step-5"], id="one that failed"),
        pytest.param(agent(own(5), own(6)), TAKES, [f"{PREFIX}/step-5"], id="the older one of two"),
        pytest.param(agent(own(5), own(5)), TAKES, [f"{PREFIX}/step-5"], id="the same one twice"),
        pytest.param(
            agent(own(5)), series({**ADOPTS, "spec.every": "1h"}), [f"{PREFIX}/step-5"], id="beside a schedule"
        ),
        pytest.param(agent(own(5)), series({**ADOPTS, "spec.suspend": True}), [f"{PREFIX}/step-5"], id="suspended"),
        pytest.param(
            agent(own(5, "/mnt/run/step-5")),
            series({**ADOPTS, "spec.storage": {"url": "file:///mnt/run"}}),
            ["file:///mnt/run/step-5"],
            id="a path",
        ),
        pytest.param(agent(own(5).model_copy(update={"requested": True})), TAKES, [], id="a request"),
        pytest.param(agent(own(5), labels={"app": "x"}), TAKES, [], id="another pod"),
        pytest.param(
            agent(own(5), labels={"batch.kubernetes.io/job-name": "other"}), TAKES, [], id="the pod of another Job"
        ),
        pytest.param(agent(own(5)), series({**ADOPTS, "spec.every": "1h", "spec.storage": None}), [], id="no prefix"),
        pytest.param(agent(own(5)), series(), [], id="no target"),
    ],
)
def test_what_a_series_takes(by: ConnectedAgent, of: Series, urls: list[str]) -> None:
    assert told(decided(by, of=of)) == urls


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("ended", "why"),
    [
        pytest.param(own(5, "s3://bucket/other/step-5"), "It lies outside of spec.storage.url", id="another prefix"),
        pytest.param(own(5, f"{PREFIX}-of-others/step-5"), "It lies outside", id="a longer name"),
        pytest.param(own(5, PREFIX), "It lies outside", id="the prefix itself"),
        pytest.param(own(5, f"{PREFIX}/../other"), "It lies outside", id="a way out"),
        pytest.param(own(5, f"{PREFIX}/x/../step-5"), "Its URL is none", id="a way round"),
        pytest.param(own(5, f"{PREFIX}/step 5"), "Its URL is none", id="a blank"),
        pytest.param(own(5, f"{PREFIX}/step\0"), "Its URL is none", id="a letter that nobody sees"),
        pytest.param(own(5, "gs://bucket/run/step-5"), "It lies outside", id="another store"),
        pytest.param(own(5, "/bucket/run/step-5"), "It lies outside", id="a path"),
        pytest.param(own(5, "", checkpoint=None), "It names no URL.", id="no URL"),
        pytest.param(
            own(5, checkpoint=CheckpointInfo(url=f"{PREFIX}/step-5", save_id="x; rm")), "The id of", id="no save id"
        ),
        pytest.param(own(5, checkpoint=CheckpointInfo(url="s3://b/x", save_id="0" * 32)), "It lies out", id="two URLs"),
    ],
)
def test_what_a_series_refuses_is_said_and_nothing_is_created(ended: EndedSave, why: str) -> None:
    found = decided(agent(ended))
    assert told(found) == []
    assert why in refused(found)
    (event,) = [each for each in found.events if each.reason == "SaveRefused"]
    assert event.type == "Warning"
    assert why in event.message
    # The agent need not list it once the status says so.
    assert not settled(ended)
    assert settled(ended, **found.status)


@pytest.mark.adversary
def test_a_flood_of_what_is_refused_is_said_once_in_ten_minutes() -> None:
    first = decided(agent(own(5, "s3://x/y")))
    for minute in (0, 5, 9):
        again = decided(agent(own(6, "s3://x/z")), status=first.status, now=NOW + timedelta(minutes=minute))
        assert (again.status, again.events) == (first.status, ())
    assert settled(own(6, "s3://x/z"), **first.status)
    later = decided(agent(own(6, "s3://x/z")), status=first.status, now=NOW + SAID)
    assert [each.reason for each in later.events] == ["SaveRefused"]
    # It stays to be read, and is no failure of the series.
    quiet = decided(status=later.status, now=NOW + 3 * SAID)
    assert (quiet.status, ready(quiet)[0]) == (later.status, "True")


@pytest.mark.adversary
def test_a_flood_of_saves_waits() -> None:
    flood = [own(step) for step in range(100, 100 + MOST_A_MINUTE + 5)]
    pods = [replace(agent(each), pod=f"rank0-{each.step}") for each in flood]
    found = decided(*pods)
    assert len(told(found)) == MOST_A_MINUTE
    assert found.wake_at == NOW + TURN
    young = tuple(report(each, **DONE) for each in flood[:MOST_A_MINUTE])
    soon = decided(*pods, runs=young, now=NOW + timedelta(seconds=59))
    assert (told(soon), soon.wake_at) == ([], NOW + YOUNG)
    assert deleted(soon) == [], "what is counted stays so long"
    assert not settled(flood[-1], *young)
    later = decided(*pods[MOST_A_MINUTE:], runs=young, now=NOW + YOUNG)
    assert len(told(later)) == 5


def test_the_saves_of_a_pod_are_told_of_one_after_the_other() -> None:
    """So that the one which was committed last is told of last."""
    first, second, third = own(9), own(10), own(11)
    by = agent(first, second, third)
    waits = decided(by, runs=(report(first),), now=NOW + timedelta(seconds=1))
    assert (told(waits), waits.wake_at) == ([], NOW + TURN)
    assert told(decided(by, runs=(report(first, **DONE),))) == [second.url]
    assert told(decided(by, runs=(report(first),), now=NOW + TURN)) == [second.url], "it keeps nobody waiting for long"
    # What is refused or known keeps nobody waiting either.
    odd = own(8, "s3://x/y")
    assert told(decided(agent(odd, first, second), runs=(report(first, **DONE),))) == [second.url]


def test_of_what_ended_in_one_second_the_higher_step_is_the_latest() -> None:
    given = DONE | {"save_id": save_id("x")}
    both = tuple(report(own(step), **given) for step in (9, 10))
    for runs in (both, both[::-1]):
        assert decided(runs=runs).status["latest"]["step"] == 10


@pytest.mark.adversary
def test_a_series_has_no_more_than_so_many() -> None:
    there = tuple(report(own(step), created=hours(-1), **DONE) for step in range(MOST))
    found = decided(agent(own(MOST + 1), own(3)), runs=there)
    assert told(found) == []
    assert f"The series has {MOST} Checkpoints" in refused(found)
    assert settled(own(3), *there)


def test_an_agent_lists_a_save_until_its_outcome_is_written() -> None:
    ended = own(5)
    assert not settled(ended)
    assert not settled(ended, report(ended)), "its Checkpoint is there, and has no status yet"
    assert settled(ended, report(ended, **DONE))
    assert settled(ended, report(ended, **DONE | {"phase": Phase.FAILED}))
    assert not settled(ended, report(own(6), **DONE)), "another save"
    assert settled(ended, by=agent(ended, labels={})), "no pod of its target"
    assert settled(ended, of=series()), "a series that takes none"
    # While its Checkpoint has no status it is created no second time.
    assert told(decided(agent(ended), runs=(report(ended),))) == []
    assert told(decided(agent(ended), runs=(report(ended, **DONE),))) == []


def test_a_save_that_a_run_of_the_series_tells_of_is_told_of_once() -> None:
    """A save of the training itself may answer a request, too."""
    ended = own(5)
    answered = run(1, Phase.SUCCEEDED, url=f"{PREFIX}//step-5/", save_id=save_id("step-5"))
    assert told(decided(agent(ended), runs=(answered,))) == []
    assert settled(ended, answered)
    other = run(1, Phase.SUCCEEDED, url=f"{PREFIX}/step-5", save_id="f" * 32)
    assert told(decided(agent(ended), runs=(other,))) == [ended.url]
    assert not settled(ended, other)


def test_what_was_removed_does_not_come_back() -> None:
    """An agent that was not connected for long lists what the retention has removed meanwhile."""
    ended = own(5)
    gone = {"name": report(ended).name, "url": ended.url, "step": 5, "time": "2026-11-24T07:00:00Z"}
    status: dict[str, Any] = {"retention": {"removed": [gone]}}
    assert told(decided(agent(ended), status=status)) == []
    assert settled(ended, **status)


def test_a_checkpoint_whose_save_nobody_reports_goes_after_a_while() -> None:
    lost = report(own(5))
    found = decided(runs=(lost,), now=NOW + LOST - timedelta(seconds=1))
    assert (deleted(found), found.wake_at) == ([], NOW + LOST)
    assert deleted(decided(runs=(lost,), now=NOW + LOST)) == [lost.name]
    assert deleted(decided(agent(own(5)), runs=(lost,), now=NOW + LOST)) == [], "its agent is back"
    assert deleted(decided(runs=(report(own(5), **DONE),), now=NOW + LOST)) == []


def test_history_counts_them_and_leaves_what_an_agent_lists() -> None:
    there = tuple(
        report(own(step), created=hours(-1), phase=Phase.SUCCEEDED, ended=hours(step / 100)) for step in range(5)
    )
    assert deleted(decided(runs=there, now=hours(1))) == [there[1].name, there[0].name]
    assert deleted(decided(agent(own(0)), runs=there, now=hours(1))) == [there[1].name]


def test_retention_judges_them_with_the_others() -> None:
    of = series({**ADOPTS, "spec.retention": {"last": 1}})
    there = tuple(
        report(own(step), phase=Phase.SUCCEEDED, ended=hours(step), save_id=save_id(f"step-{step}")) for step in (1, 2)
    )
    found = decided(of=of, runs=there, now=hours(3))
    assert [each.url for each in found.actions if isinstance(each, CreateRemoval)] == [f"{PREFIX}/step-1"]
    assert found.status["latest"]["step"] == 2
    # What is to be removed is named by a save id, and by nothing else that an agent may say.
    odd = report(own(1), phase=Phase.SUCCEEDED, ended=hours(1), save_id="../..")
    found = decided(of=of, runs=(odd, there[1]), now=hours(3))
    assert [each["reasons"] for each in found.status["retention"]["kept"]] == [
        "the newest one; the last one",
        "nobody knows which save stands there",
    ]


def test_a_failed_save_makes_the_series_say_so_until_one_succeeds() -> None:
    bad = report(failed(5), phase=Phase.FAILED, ended=hours(1), reason="StorageFull", message="why")
    found = decided(runs=(bad,), now=hours(2))
    assert found.status["lastFailure"]["name"] == bad.name
    assert ready(found)[1] == "LastRunFailed"
    good = report(own(6), phase=Phase.SUCCEEDED, ended=hours(1.5), save_id=save_id("step-6"))
    assert ready(decided(runs=(bad, good), now=hours(2)))[1] == "Scheduled"


def test_a_series_without_a_schedule_begins_nothing() -> None:
    found = decided(now=hours(100))
    assert (found.actions, found.wake_at, found.status["schedule"]) == ((), None, "as the training saves")
    assert "next" not in found.status
    assert ready(found)[1:] == (
        "Scheduled",
        "Each save that the training makes by itself becomes a Checkpoint of the series.",
    )
    without = decide(TAKES, Runs(served=False), {}, NOW)
    assert ready(without)[1:] == ("NotEnabled", "This operator has no channel to trainings: see its log.")


@pytest.mark.parametrize("step", [0, 7, 10**12 - 1, 10**12, 1 << 62, None])
@pytest.mark.parametrize("name", ["run", "n" * 47, f"{'n' * 30}-{'x' * 16}"])
def test_a_name_is_one_and_no_schedule_could_have_given_it(name: str, step: int | None) -> None:
    found = report_name(name, step, save_id("x"))
    assert len(found) <= 63
    assert scheduled_time(name, found) is None
    assert found == report_name(name, step, save_id("x"))
    assert found != report_name(name, step, save_id("y"))
    assert found != report_name(f"{name[:-1]}q", step, save_id("x"))
    assert parse_checkpoint(
        {
            "apiVersion": "dcp-operator.io/v1alpha1",
            "kind": "Checkpoint",
            "metadata": {"name": found},
            "spec": {"operation": "Save", "target": {"kind": "Job", "name": "t"}},
        }
    )


def test_a_save_is_told_from_others_by_a_label() -> None:
    assert save_of(own(5)) == save_id("step-5")
    for odd in ("", "A" * 32, "0" * 31, "0" * 33, "0" * 32 + "\n"):
        ended = own(5, checkpoint=CheckpointInfo(save_id=odd))
        assert save_of(ended) == save_of(failed(5))
    assert save_of(failed(5)) != save_of(failed(6))


def test_a_refusal_is_read_back() -> None:
    said = SeriesStatus(refused_save=RefusedSave(pod="p", url="s3://x", message="m", time=NOW))
    assert SeriesStatus.read(said.to_dict()).refused_save == said.refused_save
