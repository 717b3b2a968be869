"""What a budget of the operator stands for, and how long: whatever is forged, refused, changed or restarted."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from channel_rig import STATE
from dcp_operator.api.naming import DISRUPTION_LABEL
from dcp_operator.kube.channel.callers import Caller
from dcp_operator.kube.client.api import (
    BUDGETS,
    CHECKPOINTS,
    JOBS,
    PODS,
    SERIES,
    RefusedError,
    UnavailableError,
)
from disruption_rig import KEY, World
from scenes import stamp
from series_scenes import SERIES_UID


@pytest.fixture
def world() -> World:
    made = World()
    made.connect()
    return made


def test_a_budget_that_stands_is_kept_while_agents_come_to_a_new_process(world: World) -> None:
    """Else it would be gone while the operator itself is drained, with its node or before that of the training."""
    for second in (0, 5):
        world.round(second)
    new = World(api=world.api, served_since=10)
    new.cordon()
    assert [each for second in (10, 40, 69) for each in new.round(second)] == []
    new.cordon(cordoned=False)
    assert [each.split("/")[0] for each in new.round(71)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]
    new.connect()
    assert [each.split("/")[0] for each in new.round(75)] == ["POST jobs"]


def test_a_namespace_that_can_not_be_read_for_a_moment_changes_nothing(world: World) -> None:
    world.unasked = ""
    world.api.objects["/api/v1/namespaces/team"] = {"kind": "Namespace", "metadata": {"name": "team"}}
    for second in (0, 5):
        world.round(second)
    object.__setattr__(
        world.api, "refuse", lambda asked: UnavailableError("busy", 429) if asked.path.endswith("/team") else None
    )
    assert world.round(40) == []
    assert KEY in world.holding.by_budget


@pytest.mark.parametrize("changes", [{"spec.onDisruption": None}, {"spec.every": "never"}])
def test_a_series_that_asks_for_nothing_any_more_takes_its_budget_with_it(
    world: World, changes: dict[str, Any]
) -> None:
    for second in (0, 5):
        world.round(second)
    world.put_series(**changes, **{"metadata.generation": 2})
    assert [each.split("/")[0] for each in world.round(10)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]
    assert world.round(15) == []


def deleted(world: World, second: float) -> None:
    """Take away what the operator has made, as whoever may delete Checkpoints may."""
    del second
    for body in world.of(CHECKPOINTS):
        del world.api.objects[CHECKPOINTS.path("team", body["metadata"]["name"])]
        world.view.forget(CHECKPOINTS, "team", body["metadata"]["name"], body["metadata"]["uid"])


def made_again(world: World, second: float) -> None:
    """Make one Checkpoint after the other with the series as its owner, as whoever may create them may."""
    owner = {"apiVersion": SERIES.api_version, "kind": SERIES.kind, "name": "nightly", "uid": SERIES_UID}
    metadata = {
        "name": f"mine-{second:.0f}",
        "namespace": "team",
        "labels": {DISRUPTION_LABEL: "true"},
        "ownerReferences": [{**owner, "controller": True}],
        "creationTimestamp": stamp(second),
    }
    world.view.ingest(CHECKPOINTS, world.api.add(CHECKPOINTS, {"metadata": metadata, "spec": {}, "status": {}}))


def pods_made_again(world: World, second: float) -> None:
    """Put one pod after the other on the cordoned node: each has a sign of its own, and its Save."""
    deleted(world, second)
    world.pod(f"rank{second:.0f}")


@pytest.mark.adversary
@pytest.mark.parametrize("trick", [deleted, made_again, pods_made_again])
def test_no_trick_holds_a_node_for_longer_than_the_hold(world: World, trick: Callable[[World, float], None]) -> None:
    for second in (0, 5):
        world.round(second)
    world.cordon()
    stands = []
    for second in (100, 300, 500, 699, 701, 1000, 1500):
        trick(world, second)
        world.round(second)
        stands.append(bool(world.of(BUDGETS)))
    assert stands == [True, True, True, True, False, False, False]


@pytest.mark.adversary
@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"activeDeadlineSeconds": 999_999_999}, id="lasts long"),
        pytest.param({"ttlSecondsAfterFinished": None}, id="stays"),
        pytest.param({"parallelism": 1}, id="has pods"),
    ],
)
def test_a_budget_hangs_on_no_job_that_somebody_has_made_or_changed(world: World, spec: dict[str, Any]) -> None:
    """Who may make Jobs could else have it stand for ever once the operator is gone."""
    for second in (0, 5):
        world.round(second)
    (job,) = world.of(JOBS)
    name = job["metadata"]["name"].removesuffix("1")
    for their_name, their_spec in ((f"{name}2", spec), (f"{name}777", spec), ("theirs-900", {})):
        metadata = {**job["metadata"], "name": their_name, "uid": their_name}
        theirs = {**job, "metadata": metadata, "spec": {**job["spec"], **their_spec}, "status": {"startTime": stamp(5)}}
        world.api.add(JOBS, theirs)
    changed = world.api.objects[JOBS.path("team", f"{name}1")]
    changed["spec"] = {**changed["spec"], **spec}
    for second in (10, 15, 20, 25):
        world.round(second)
    (budget,) = world.of(BUDGETS)
    (job,) = (each for each in world.of(JOBS) if each["metadata"]["name"] != "theirs-900")
    assert len(world.of(JOBS)) == 2, "what has another name is not the operator's"
    assert budget["metadata"]["ownerReferences"][0]["uid"] == job["metadata"]["uid"]
    assert job["metadata"]["name"] == f"{name}778"
    assert job["spec"]["activeDeadlineSeconds"] == 600


def test_a_shorter_hold_counts_at_once(world: World) -> None:
    for second in (0, 5):
        world.round(second)
    world.put_series(**{"spec.onDisruption": {"hold": "1m"}, "metadata.generation": 2})
    for second in (10, 15, 20):
        assert len(world.of(BUDGETS)) == 1
        world.round(second)
    (job,) = world.of(JOBS)
    assert job["spec"]["activeDeadlineSeconds"] == 60


def test_a_budget_is_of_the_target_that_the_series_has_by_now(world: World) -> None:
    for second in (0, 5):
        world.round(second)
    selector = {"matchLabels": {"batch.kubernetes.io/job-name": "train", "app": "x"}}
    world.api.objects[PODS.path("team", "rank0")]["metadata"]["labels"]["app"] = "x"
    world.put_series(**{"spec.template.spec.target": {"selector": selector}, "metadata.generation": 2})
    assert world.round(10) == ["PUT poddisruptionbudgets/nightly-hold"]
    assert world.of(BUDGETS)[0]["spec"]["selector"] == selector


def test_a_series_of_all_pods_makes_no_budget_over_those_of_another(world: World) -> None:
    """Two budgets over a pod would make its evictions fail, and end `kubectl drain`."""
    for second in (0, 5):
        world.round(second)
    target = {"selector": {"matchLabels": {"app": "x"}}}
    world.pod("rank1", app="x")
    del world.api.objects[PODS.path("team", "rank1")]["metadata"]["labels"]["batch.kubernetes.io/job-name"]
    world.api.objects[PODS.path("team", "rank0")]["metadata"]["labels"]["app"] = "x"
    other = {"metadata.name": "other", "metadata.uid": "other", "spec.template.spec.target": target}
    world.put_series(**other)
    world.hub.hear(Caller(namespace="team", pod="rank1", uid="uid-rank1"), STATE, {"app": "x"})
    for second in (10, 15, 20):
        assert world.round(second) == []


@pytest.mark.adversary
def test_a_quota_that_refuses_the_job_is_told(world: World, caplog: pytest.LogCaptureFixture) -> None:
    object.__setattr__(
        world.api,
        "refuse",
        lambda asked: RefusedError("exceeded quota", 403) if (asked.method, asked.resource) == ("POST", JOBS) else None,
    )
    with caplog.at_level(logging.WARNING):
        for second in (0, 5, 10):
            assert world.round(second) == []
    assert [each.message for each in caplog.records if "exceeded quota" in each.message] == [caplog.records[0].message]
    assert KEY not in world.holding.by_budget


def test_where_its_save_is_refused_the_pods_may_go(world: World) -> None:
    for second in (0, 5):
        world.round(second)
    object.__setattr__(
        world.api,
        "refuse",
        lambda asked: RefusedError("no", 403) if (asked.method, asked.resource) == ("POST", CHECKPOINTS) else None,
    )
    world.cordon()
    assert [each.split("/")[0] for each in world.round(10)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]
