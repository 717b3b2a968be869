"""Rounds over the trainings of series with an onDisruption, against an API server in memory: who saves, what stands."""

import logging
from typing import Any

import pytest

from dcp_operator.api.naming import DISRUPTION_LABEL
from dcp_operator.kube.client.api import (
    BUDGETS,
    CHECKPOINTS,
    SERIES,
    ApiRequest,
    RefusedError,
)
from disruption_rig import HOLDING, KEY, LABELS, NO_WEBHOOK, RANK0, World
from series_scenes import series_manifest


@pytest.fixture
def world() -> World:
    made = World()
    made.connect()
    return made


def test_a_cordon_has_the_training_save_and_the_budget_lets_go_after_the_commit(world: World) -> None:
    (job,) = world.round(0)
    assert job.startswith("POST jobs/nightly-hold-")
    assert world.round(5) == ["POST poddisruptionbudgets/nightly-hold"]
    assert world.round(10) == []
    assert KEY in world.holding.by_budget
    world.cordon()
    (save,) = world.round(15)
    assert save.startswith("POST checkpoints/nightly-drain-")
    (body,) = world.of(CHECKPOINTS)
    assert body["metadata"]["labels"][DISRUPTION_LABEL] == "true"
    assert body["spec"]["target"] == {"kind": "Job", "name": "train"}
    assert world.round(20) == []
    assert [each["metadata"]["name"] for each in world.of(BUDGETS)] == ["nightly-hold"]
    world.committed(22)
    assert [each.split("/")[0] for each in world.round(25)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]
    # As long as it is cordoned nothing holds it up again; after that evictions are refused as before.
    assert world.round(9_000) == []
    world.cordon(cordoned=False)
    assert [each.split("/")[0] for each in world.round(9_005)] == ["POST jobs"]
    assert world.round(9_010) == ["POST poddisruptionbudgets/nightly-hold"]
    assert len(world.of(CHECKPOINTS)) == 1


def test_a_budget_is_handed_on_from_job_to_job(world: World) -> None:
    for second in (0, 5):
        world.round(second)
    first = world.of(BUDGETS)[0]["metadata"]["ownerReferences"][0]["uid"]
    assert [each.split("/")[0] for each in world.round(305)] == ["POST jobs"]
    assert world.round(310) == ["PUT poddisruptionbudgets/nightly-hold"]
    assert world.of(BUDGETS)[0]["metadata"]["ownerReferences"][0]["uid"] != first
    assert [each.split("/")[0] for each in world.round(315)] == ["DELETE jobs"]
    assert world.round(320) == []


def test_a_budget_has_as_many_pods_as_run(world: World) -> None:
    for second in (0, 5):
        world.round(second)
    world.pod("rank1")
    assert world.round(10) == ["PUT poddisruptionbudgets/nightly-hold"]
    assert world.of(BUDGETS)[0]["spec"]["minAvailable"] == 2


@pytest.mark.adversary
def test_no_budget_hangs_on_a_job_that_does_not_run(world: World) -> None:
    """A queue may keep it suspended for ever: then nothing would remove the budget."""
    world.round(0, jobs_start=False)
    for second in (5, 700, 5_000):
        assert world.round(second, jobs_start=False) == []
    assert world.of(BUDGETS) == []


def test_where_the_webhook_holds_evictions_there_is_no_budget_and_a_cordon_saves_all_the_same() -> None:
    world = World(unasked="")
    world.connect()
    namespace = {
        "kind": "Namespace",
        "metadata": {"name": "team", "labels": {"dcp-operator.io/hold-evictions": "true"}},
    }
    world.api.objects["/api/v1/namespaces/team"] = namespace
    assert world.round(0) == []
    world.cordon()
    (save,) = world.round(5)
    assert save.startswith("POST checkpoints/nightly-drain-")
    assert world.round(10) == []
    assert KEY not in world.holding.by_budget


def test_a_webhook_that_comes_takes_the_place_of_the_budget(world: World) -> None:
    for second in (0, 5):
        world.round(second)
    labels = {"dcp-operator.io/hold-evictions": "true"}
    world.api.objects["/api/v1/namespaces/team"] = {"kind": "Namespace", "metadata": {"name": "team", "labels": labels}}
    world.unasked = ""
    assert world.round(10) == []
    assert [each.split("/")[0] for each in world.round(35)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]
    assert world.round(40) == []
    assert KEY not in world.holding.by_budget


def test_while_nobody_knows_of_a_webhook_there_is_no_budget() -> None:
    world = World(unasked=None)
    world.connect()
    assert world.round(0) == []
    world.unasked = NO_WEBHOOK
    assert [each.split("/")[0] for each in world.round(5)] == ["POST jobs"]


def test_without_an_agent_there_is_neither_save_nor_budget() -> None:
    world = World()
    world.cordon()
    assert world.round(0) == []
    # That it would hold evictions is known all the same.
    assert KEY in world.holding.by_budget


def test_an_agent_that_leaves_takes_the_budget_with_it(world: World) -> None:
    for second in (0, 5):
        world.round(second)
    world.hub.forget(RANK0)
    assert [each.split("/")[0] for each in world.round(10)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]
    assert world.round(15) == []


@pytest.mark.parametrize("changes", [{"spec.suspend": True}, {"spec.template.spec.suspend": True}])
def test_a_series_that_is_suspended_holds_nothing(world: World, changes: dict[str, Any]) -> None:
    for second in (0, 5):
        world.round(second)
    body = series_manifest({**HOLDING, **changes, "metadata.generation": 2})
    world.view.ingest(SERIES, world.api.add(SERIES, body))
    world.cordon()
    assert [each.split("/")[0] for each in world.round(10)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]


@pytest.mark.adversary
def test_a_budget_of_somebody_else_is_left_alone_and_said_once(world: World, caplog: pytest.LogCaptureFixture) -> None:
    for second in (0, 5):
        world.round(second)
    theirs = {"metadata": {"name": "theirs", "namespace": "team"}, "spec": {"selector": {"matchLabels": LABELS}}}
    world.api.add(BUDGETS, theirs)
    with caplog.at_level(logging.WARNING):
        assert [each.split("/")[0] for each in world.round(10)] == ["DELETE poddisruptionbudgets", "DELETE jobs"]
        for second in (15, 20):
            assert world.round(second) == []
    assert [each.message for each in caplog.records if "theirs" in each.message] == [caplog.records[0].message]
    assert KEY not in world.holding.by_budget
    assert [each["metadata"]["name"] for each in world.of(BUDGETS)] == ["theirs"]


@pytest.mark.parametrize("plural", ["nodes", "poddisruptionbudgets"])
def test_without_a_permission_it_says_so_once_and_makes_no_budget(
    world: World, plural: str, caplog: pytest.LogCaptureFixture
) -> None:
    asked = 0

    def refuse(request: ApiRequest) -> Exception | None:
        nonlocal asked
        if request.resource is None or request.resource.plural != plural:
            return None
        asked += 1
        return RefusedError(f"may not {request.method}", 403)

    object.__setattr__(world.api, "refuse", refuse)
    world.cordon()
    with caplog.at_level(logging.WARNING):
        writes = [each for second in (0, 5, 10, 595) for each in world.round(second)]
        assert (asked, len(caplog.records)) == (1, 1)
        world.round(605)
    assert (asked, len(caplog.records)) == (2, 1)
    # Where nodes can be read, a cordon has the training save.
    assert len(writes) == (0 if plural == "nodes" else 1)
    assert world.of(BUDGETS) == []


def test_of_two_series_of_one_training_the_first_one_has_it_save(world: World) -> None:
    other = series_manifest({**HOLDING, "metadata.name": "other", "metadata.uid": "other"})
    world.view.ingest(SERIES, world.api.add(SERIES, other))
    world.cordon()
    writes = [each for second in (0, 5, 10) for each in world.round(second)]
    assert [each.split("/")[0] for each in writes] == ["POST checkpoints", "POST jobs", "POST poddisruptionbudgets"]
    assert "nightly" in writes[0]


def test_one_series_in_trouble_keeps_no_other_from_being_looked_at(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    other = series_manifest({**HOLDING, "metadata.name": "a", "metadata.uid": "a", "metadata.namespace": "other"})
    world.view.ingest(SERIES, world.api.add(SERIES, other))
    bad = RefusedError("no such thing", 422)
    object.__setattr__(world.api, "refuse", lambda request: bad if "/namespaces/other/" in request.path else None)
    with caplog.at_level(logging.WARNING):
        assert len(world.round(0)) == 1
        world.round(5)
    assert [each.message for each in caplog.records if "no such thing" in each.message] == [caplog.records[0].message]
