"""A series' reconciles against an API server in memory: what is created, adopted, refused and deleted."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from dcp_operator.api.naming import GROUP
from dcp_operator.kube.client.api import CHECKPOINTS, ApiRequest, ConflictError, RefusedError, UnavailableError
from dcp_operator.kube.loop.queue import RetryLaterError
from dcp_operator.kube.view.series_runs import SeriesRuns
from scenes import manifest
from series_scenes import SERIES_UID, hours, run
from series_world import KEY, OperatorEndedError, World

FIRST, SECOND = run(1).name, run(2).name


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


def test_a_run_is_created_and_its_own_reconcile_is_asked_for() -> None:
    async def scenario() -> None:
        world = World()
        assert await world.work() == 3600
        assert await world.work(hours(1)) == 3600
        assert world.api.writes() == [
            "PUT checkpointseries/nightly",
            f"POST checkpoints/{FIRST}",
            "PUT checkpointseries/nightly",
        ]
        made = world.checkpoint(FIRST)
        assert made["spec"]["storage"]["url"] == "s3://bucket/run/20261124-090000"
        assert made["metadata"]["labels"][f"{GROUP}/series"] == "nightly"
        assert CHECKPOINTS.key("team", FIRST) in world.woken
        assert world.status["active"] == [FIRST]
        await world.settle()
        assert world.names == [FIRST]

    played(scenario)


def test_what_becomes_of_a_run_wakes_its_series() -> None:
    async def scenario() -> None:
        world = World()
        await world.work(hours(1))
        world.hear()
        world.woken.clear()
        world.end(FIRST, "Succeeded", checkpoint={"step": 7})
        world.hear()
        assert KEY in world.woken
        await world.work(hours(1.2))
        assert world.status["latest"]["step"] == 7
        assert world.status["activeCount"] == 0
        world.woken.clear()
        world.remove(FIRST)
        world.hear()
        assert KEY in world.woken

    played(scenario)


def test_a_run_that_was_created_and_not_written_down_is_found() -> None:
    async def scenario() -> None:
        world = World()
        await world.work()
        world.api.dies_after(0, answered=True)
        with pytest.raises(OperatorEndedError):
            await world.work(hours(1))
        assert (world.names, "active" in world.status) == ([FIRST], False)
        world.start()
        await world.settle()
        assert world.names == [FIRST]
        assert world.status["lastScheduleTime"] == "2026-11-24T09:00:00Z"

    played(scenario)


def test_a_watch_that_is_behind_creates_nothing_twice() -> None:
    async def scenario() -> None:
        world = World()
        await world.work(hours(1))
        # The status is old, and nothing was heard of the run yet.
        world.reconciler.runs.drop(CHECKPOINTS.key("team", FIRST))
        old = world.api.add(world.reconciler.kind.resource, {**world.series, "status": {}})
        world.reconciler.view.ingest(world.reconciler.kind.resource, old)
        await world.work()
        assert world.status["active"] == [FIRST]
        assert world.names == [FIRST]

    played(scenario)


@pytest.mark.adversary
def test_a_checkpoint_of_somebody_else_is_no_run_whatever_its_labels_say() -> None:
    async def scenario() -> None:
        world = World()
        labels = {f"{GROUP}/series": "nightly"}
        world.api.add(
            CHECKPOINTS, manifest({"metadata.name": FIRST, "metadata.uid": "theirs", "metadata.labels": labels})
        )
        world.hear()
        assert await world.work(hours(1)) is not None
        assert "active" not in world.status
        ready = next(each for each in world.status["conditions"] if each["type"] == "Ready")
        assert ready["reason"] == "RunRefused"
        assert f"Checkpoint team/{FIRST} exists already and belongs to nobody" in ready["message"]
        # The next run has another name.
        await world.work(hours(2))
        assert world.status["active"] == [SECOND]
        assert world.checkpoint(FIRST)["metadata"]["uid"] == "theirs"

    played(scenario)


def test_a_quota_is_waited_for() -> None:
    async def scenario() -> None:
        world = World()

        def refuse(request: ApiRequest) -> Exception | None:
            return RefusedError("exceeded quota: none", 403) if request.method == "POST" else None

        object.__setattr__(world.api, "refuse", refuse)
        assert await world.work(hours(1)) == 30
        assert world.names == []
        assert "exceeded quota: none" in str(world.status["conditions"])
        object.__setattr__(world.api, "refuse", lambda _: None)
        await world.work(hours(1.01))
        assert world.names == [FIRST]

    played(scenario)


def test_an_api_server_that_is_away_is_asked_again() -> None:
    async def scenario() -> None:
        world = World()
        object.__setattr__(world.api, "refuse", lambda _: UnavailableError("away", 503))
        with pytest.raises(RetryLaterError):
            await world.work(hours(1))
        object.__setattr__(world.api, "refuse", lambda _: None)
        await world.settle()
        assert world.names == [FIRST]

    played(scenario)


def test_a_status_that_somebody_else_wrote_is_decided_on_anew() -> None:
    async def scenario() -> None:
        world = World()
        refusals = [ConflictError("changed", 409)]

        def refuse(request: ApiRequest) -> Exception | None:
            return refusals.pop() if request.method == "PUT" and refusals else None

        object.__setattr__(world.api, "refuse", refuse)
        assert await world.work(hours(1)) == pytest.approx(0.02)
        await world.settle()
        assert world.names == [FIRST]

    played(scenario)


def test_runs_beyond_the_limits_are_deleted_after_the_status_tells_of_them() -> None:
    async def scenario() -> None:
        world = World({"spec.historyLimit": {"successful": 1, "failed": 0}})
        for hour, phase in ((1, "Succeeded"), (2, "Failed"), (3, "Succeeded")):
            await world.work(hours(hour))
            world.hear()
            world.end(run(hour).name, phase)
            world.hear()
        world.api.writes()
        await world.work(hours(3.5))
        deleted = [f"DELETE checkpoints/{run(hour).name}" for hour in (1, 2)]
        writes = world.api.writes()
        assert writes[0] == "PUT checkpointseries/nightly"
        assert sorted(writes[1:]) in (deleted[:1], deleted)
        assert world.names == [run(3).name]
        assert world.status["lastFailure"]["name"] == SECOND

    played(scenario)


def test_a_run_that_is_made_anew_under_its_name_is_another() -> None:
    """The index goes by uid: what is deleted and what is kept are never taken for each other."""
    woken: list[object] = []
    runs = SeriesRuns(woken.append)
    owner = {"apiVersion": f"{GROUP}/v1", "kind": "CheckpointSeries", "name": "nightly", "uid": SERIES_UID}
    body = manifest({"metadata.name": FIRST, "metadata.ownerReferences": [owner | {"controller": True}]})
    key = CHECKPOINTS.key("team", FIRST)
    runs.note(key, body)
    assert runs.uid_of(key, SERIES_UID) == body["metadata"]["uid"]
    runs.note(key, {**body, "metadata": {**body["metadata"], "uid": "new"}})
    assert [each.uid for each in runs.of("team", SERIES_UID).all] == ["new"]
    assert runs.of("other", SERIES_UID).all == ()
    # It is orphaned, or only referenced.
    runs.note(key, {**body, "metadata": {**body["metadata"], "uid": "new", "ownerReferences": [owner]}})
    assert runs.of("team", SERIES_UID).all == ()
    assert runs.uid_of(key, SERIES_UID) == ""
    assert len(woken) == 4
