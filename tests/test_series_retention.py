"""What a series removes of what it has saved, by Deletes of its own, and why the rest stays."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from dcp_operator.api.checkpoint.parsing import parse as parse_checkpoint
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.series.status import RetentionStatus
from dcp_operator.api.site import CLUSTER
from dcp_operator.controllers.series.actions import CreateRemoval
from dcp_operator.controllers.series.decide import decide
from dcp_operator.controllers.series.retention import MOST_REMOVALS, Removals, retain
from dcp_operator.controllers.series.runs import FOR_EVER, Runs, SeriesRun
from dcp_operator.objects.series_run import checkpoint_of_removal
from series_scenes import TARGET, Changes, decided, hours, ready, run, series
from series_world import save_id

DONE, FAILED = Phase.SUCCEEDED, Phase.FAILED
LAST_2 = {"spec.retention": {"last": 2}}


def saved(hour: float, step: int | None = None, **fields: Any) -> SeriesRun:
    name = run(hour).name
    given = {"save_id": save_id(name), "storage": {"url": "s3://bucket/run", "credentialsSecretRef": {"name": "s3"}}}
    return run(hour, DONE, step=int(hour * 100) if step is None else step, **{**given, **fields})


def removal(of: SeriesRun, phase: Phase | None = None, *, hour: float = 9.0) -> SeriesRun:
    """Return the Delete of what a run has saved."""
    name = next(each.name for each in retained(of, saved(8.1), saved(8.2)).create)
    ended = {"phase": phase, "ended": hours(hour)} if phase is not None else {}
    if phase is FAILED:
        ended |= {"reason": "StorageDenied", "message": "The store refused the credentials."}
    given: dict[str, Any] = {"operation": "Delete", "removes": (of.url, of.save_id), **ended}
    return SeriesRun(name=name, uid=f"uid-{name}", **given)


def retained(
    *runs: SeriesRun,
    changes: Changes | None = None,
    before: RetentionStatus | None = None,
    hour: float = 9.5,
    readers: dict[str, tuple[str, ...]] | None = None,
) -> Removals:
    of = series(LAST_2 if changes is None else changes)
    return retain(of, Runs.of(runs, readers), before, hours(hour))


def kept(found: Removals) -> dict[str, str]:
    assert found.status is not None
    return {each.name: each.reasons for each in found.status.kept}


def test_what_no_rule_keeps_is_removed_and_the_rest_says_why_it_stays() -> None:
    runs = [saved(hour) for hour in (1, 2, 3, 4)]
    found = retained(*runs)
    assert [each.run for each in found.create] == [run(1).name, run(2).name], "the oldest first"
    assert list(kept(found)) == [run(4).name, run(3).name], "the newest first"
    assert kept(found)[run(4).name] == "the newest one; one of the last 2"
    (first, _) = found.create
    assert (first.url, first.save_id) == (runs[0].url, runs[0].save_id)
    assert found.delete == ()


def test_a_series_without_rules_removes_nothing_and_says_nothing() -> None:
    assert retained(*(saved(hour) for hour in range(1, 9)), changes={}) == Removals()
    every = retained(saved(1), saved(2), changes={"spec.retention": {}})
    assert every.create == ()
    assert set(kept(every).values()) == {
        "the newest one; there is no rule of retention",
        "there is no rule of retention",
    }


@pytest.mark.parametrize(
    ("fields", "readers", "reasons"),
    [
        ({"pinned": True}, {}, "pinned"),
        ({"in_use_until": hours(10)}, {}, "in use until 2026-11-24 18:00:00 UTC"),
        ({"in_use_until": FOR_EVER}, {}, "in use until 9999-12-31 23:59:59 UTC"),
        ({}, {saved(1).url: ("resume",)}, "the live Load resume reads it"),
        ({"save_id": ""}, {}, "nobody knows which save stands there"),
        ({"scheduled": None}, {}, "no schedule has begun it"),
    ],
)
def test_what_is_wanted_or_unknown_stays(fields: dict[str, Any], readers: dict[str, Any], reasons: str) -> None:
    found = retained(saved(1, **fields), saved(2), saved(3), readers=readers)
    assert found.create == ()
    assert kept(found)[run(1).name] == reasons


def test_what_failed_or_runs_is_not_counted_among_the_last() -> None:
    found = retained(saved(1), saved(2), run(3, FAILED), run(4), changes=LAST_2)
    assert found.create == ()
    assert len(kept(found)) == 2


def test_only_some_are_removed_at_a_time() -> None:
    runs = [saved(hour) for hour in range(1, 9)]
    found = retained(*runs)
    assert len(found.create) == MOST_REMOVALS
    assert kept(found)[run(6).name] == "its removal waits"
    under_way = [removal(each) for each in runs[:3]]
    assert [each.run for each in retained(*runs, *under_way).create] == [run(4).name]


def test_a_suspended_series_removes_nothing_more() -> None:
    found = retained(saved(1), saved(2), saved(3), changes={**LAST_2, "spec.suspend": True})
    assert found.create == ()
    assert kept(found)[run(1).name] == "its removal waits: spec.suspend is true"


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("fields", "readers", "changes"),
    [
        pytest.param({"pinned": True}, {}, {}, id="pinned"),
        pytest.param({"in_use_until": hours(10)}, {}, {}, id="in use"),
        pytest.param({}, {saved(1).url: ("resume",)}, {}, id="read"),
        pytest.param({}, {}, {"spec.retention": {"last": 3}}, id="more are kept"),
        pytest.param({}, {}, {"spec.retention": None}, id="all are kept"),
        pytest.param({}, {}, {"spec.suspend": True}, id="suspended"),
        pytest.param({"deleting": True}, {}, {}, id="taken out of the series"),
    ],
)
def test_what_is_to_stay_after_all_is_not_removed_unless_that_has_begun(
    fields: dict[str, Any], readers: dict[str, Any], changes: Changes
) -> None:
    """A Delete may wait for long: for a quota, or for a Load on the same URL."""
    first = saved(1)
    waits = removal(first)
    runs, rules = [replace(first, **fields), saved(2), saved(3)], {**LAST_2, **changes}
    found = retained(*runs, waits, changes=rules, readers=readers)
    assert [each.name for each in found.delete] == [waits.name]
    begun = retained(*runs, replace(waits, begun=True), changes=rules, readers=readers)
    assert begun.delete == ()


@pytest.mark.adversary
@pytest.mark.parametrize("spelling", ["s3://bucket//run/step-7", "s3://bucket/run/step-7/", "s3://bucket/run/./step-7"])
def test_one_save_that_is_told_of_in_two_spellings_is_one(spelling: str) -> None:
    """A training tells of its saves by the prefix that it was started with."""
    one = saved(1, 700, save_id="a" * 32, url=spelling)
    other = saved(2, 700, save_id="a" * 32, url="s3://bucket/run/step-7")
    found = retained(one, other, saved(3, 600), changes={"spec.retention": {"last": 1}})
    assert found.create == ()
    done = removal(one, DONE)
    assert [each.name for each in retained(one, other, saved(8.1), saved(8.2), done).delete] == [
        other.name,
        one.name,
        done.name,
    ]


@pytest.mark.adversary
def test_what_another_checkpoint_has_saved_too_stays_with_that_one() -> None:
    """One save of a training may answer a Save that somebody asked for by hand, or one of another series."""
    runs = [saved(1), saved(2), saved(3), saved(4)]
    found = retain(series(LAST_2), Runs.of(runs, others={runs[0].saved: "before-maintenance"}), None, hours(9.5))
    assert [each.run for each in found.create] == [runs[1].name]
    (let_go,) = found.delete
    assert (let_go.name, let_go.why) == (
        runs[0].name,
        f"Checkpoint before-maintenance has saved {runs[0].url}, too, and stays",
    )
    pinned = replace(runs[0], pinned=True)
    found = retain(series(LAST_2), Runs.of([pinned, *runs[1:]], others={pinned.saved: "x"}), None, hours(9.5))
    assert kept(found)[pinned.name] == "pinned"


def test_what_was_replaced_since_is_not_tried_again_for_ever() -> None:
    first = saved(1)
    done = replace(removal(first, FAILED), reason="SaveMismatch")
    found = retained(first, saved(2), saved(3), done)
    assert [each.name for each in found.delete] == [first.name, done.name]
    assert found.status is not None
    assert (found.status.removed, found.status.unremoved) == ((), ())


def test_what_is_under_way_is_not_removed_again_and_counts_no_more() -> None:
    first = saved(1)
    found = retained(first, saved(2), saved(3), removal(first))
    assert (found.create, found.delete) == ((), ())
    assert run(1).name not in kept(found)
    # It is nobody's latest either, whatever becomes of the others.
    assert Runs.of([first, removal(first)]).latest is None


def test_what_was_removed_goes_from_the_list_after_the_status_tells_of_it() -> None:
    first = saved(1)
    done = removal(first, DONE)
    found = retained(first, saved(2), saved(3), done)
    assert found.status is not None
    (record,) = found.status.removed
    assert (record.name, record.url, record.step, record.time) == (first.name, first.url, 100, hours(9))
    assert [each.name for each in found.delete] == [first.name, done.name], "the run first: else it is judged anew"
    again = retained(first, saved(2), saved(3), done, before=found.status)
    assert again.status == found.status, "it is told of once, and counted once"
    left = retained(saved(2), saved(3), before=found.status)
    assert left.status is not None
    assert (left.status.removed, left.status.removed_count) == (found.status.removed, 1)


def test_what_could_not_be_removed_is_told_and_tried_again_after_an_hour() -> None:
    first = saved(1)
    failed = removal(first, FAILED)
    found = retained(first, saved(2), saved(3), failed, hour=9.5)
    assert found.status is not None
    (told,) = found.status.unremoved
    assert (told.name, told.url, told.reason) == (failed.name, first.url, "StorageDenied")
    assert (found.create, found.delete, found.wake_at) == ((), (), hours(10))
    due = retained(first, saved(2), saved(3), failed, hour=10)
    assert [each.name for each in due.delete] == [failed.name]
    assert [each.name for each in retained(first, saved(2), saved(3), hour=10).create] == [failed.name]
    decision = decided(first, saved(2), saved(3), of=series(LAST_2), now=hours(9.5))
    assert ready(decision)[1] == "Scheduled"


def test_a_series_says_that_something_can_not_be_removed() -> None:
    first = saved(1)
    runs = Runs.of([first, saved(8.1), saved(8.2), removal(first, FAILED)])
    decision = decided(of=series(LAST_2), now=hours(9.5))
    assert ready(decision)[1] == "Scheduled"
    decision = decide(series(LAST_2), runs, {}, hours(9.5))
    state, reason, message = ready(decision)
    assert (state, reason) == ("False", "RemovalFailed")
    assert message.startswith(f"{first.url} can't be removed: StorageDenied: The store refused the credentials. It is")


def test_it_is_judged_again_when_a_time_is_over() -> None:
    day = {"spec.retention": {"within": "1d"}}
    assert retained(saved(1), saved(2), changes=day).wake_at == hours(25.25) + timedelta(seconds=1)
    assert retained(saved(1, in_use_until=hours(20)), saved(2), saved(3)).wake_at == hours(20)


def test_with_a_retention_the_objects_of_what_stands_stay() -> None:
    """Else nobody would know of the data any more."""
    of = series({"spec.retention": {"last": 6}, "spec.historyLimit": {"successful": 1, "failed": 0}})
    runs = [saved(hour) for hour in (1, 2, 3, 4, 5)]
    decision = decided(*runs, run(6, FAILED), of=of, now=hours(6.5))
    assert [each.name for each in decision.actions] == [run(6).name]


def test_two_runs_that_share_a_save_go_together() -> None:
    """Of a training two requests may be answered by one save."""
    one, other = saved(1, save_id="a" * 32), saved(1.5, save_id="a" * 32, url=saved(1).url)
    done = removal(one, DONE)
    found = retained(one, other, saved(8.1), saved(8.2), done)
    assert [each.name for each in found.delete] == [other.name, one.name, done.name]


def made(changes: Changes, of: SeriesRun) -> dict[str, Any]:
    (action,) = (each for each in retained(of, saved(8.1), saved(8.2), changes=changes).create if each.run == of.name)
    assert isinstance(action, CreateRemoval)
    return checkpoint_of_removal(series(changes), action)


def test_the_delete_names_the_save_and_gets_to_the_store_as_a_run_does() -> None:
    resources = {"limits": {"nvidia.com/gpu": 8}}
    pod = {"serviceAccountName": "trainer", "containers": [{"name": "worker", "resources": resources, "env": []}]}
    workers = {"numProcPerNode": 8, "device": "cuda", "image": "mine", "podTemplate": {"spec": pod}}
    body = made({**LAST_2, "spec.template.spec.workers": workers}, saved(1))
    assert body["spec"] == {
        "operation": "Delete",
        "storage": {"url": saved(1).url, "credentialsSecretRef": {"name": "s3"}},
        "delete": {"saveId": saved(1).save_id},
        "workers": {
            "image": "mine",
            "podTemplate": {"spec": {"serviceAccountName": "trainer", "containers": [{"name": "worker", "env": []}]}},
        },
    }
    assert parse_checkpoint(body, site=CLUSTER).name == body["metadata"]["name"]
    assert len(body["metadata"]["name"]) <= 63


def test_what_lies_below_an_earlier_prefix_is_removed_as_it_was_saved() -> None:
    moved = {**LAST_2, "spec.storage": {"url": "s3://other/run", "credentialsSecretRef": {"name": "new"}}}
    assert made(moved, saved(1))["spec"]["storage"] == {
        "url": saved(1).url,
        "credentialsSecretRef": {"name": "s3"},
    }


@pytest.mark.adversary
def test_what_a_training_reports_outside_of_the_prefix_is_not_removed() -> None:
    changes = {**LAST_2, **TARGET, "spec.storage": {"url": "s3://bucket/run", "credentialsSecretRef": {"name": "s3"}}}
    outside = saved(1, url="s3://bucket/running/step-1", storage={})
    found = retained(outside, saved(2), saved(3), changes=changes)
    assert found.create == ()
    assert kept(found)[outside.name] == "it lies outside of spec.storage.url"
    inside = saved(1, url="s3://bucket/run/step-1", storage={})
    assert made(changes, inside)["spec"]["storage"]["credentialsSecretRef"] == {"name": "s3"}
