"""A series' removals against an API server in memory: who reads, who pins, and what becomes of a Delete."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final

import pytest

from dcp_operator.api.naming import DATA_FINALIZER
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, ApiRequest, RefusedError
from fake_api import checkpoints, seen
from series_scenes import Changes, hours, run
from series_world import KEY, OperatorEndedError, World, save_id

LAST_2: Final = {"spec.retention": {"last": 2}}


def played(scenario: Callable[[], Awaitable[None]]) -> None:
    async def whole() -> None:
        await scenario()

    asyncio.run(whole())


async def three_saved(changes: Changes) -> World:
    world = World(changes)
    for hour in (1, 2, 3):
        await world.work(hours(hour))
        world.hear()
        world.save(run(hour).name, step=hour)
        world.hear()
    return world


def test_a_removal_from_its_delete_to_its_end() -> None:
    async def scenario() -> None:
        world = await three_saved(LAST_2)
        await world.settle()
        (delete,) = world.removals
        assert world.checkpoint(delete)["spec"]["delete"] == {"saveId": save_id(run(1).name)}
        world.end(delete, "Succeeded")
        await world.settle()
        assert world.names == [run(2).name, run(3).name]
        assert [each["name"] for each in world.status["retention"]["removed"]] == [run(1).name]
        assert world.status["retention"]["removedCount"] == 1

    played(scenario)


def is_as_it_was(world: World) -> None:
    """Nobody else does anything about the run."""


def is_held(world: World) -> None:
    body = world.checkpoint(run(1).name)
    world.api.add(CHECKPOINTS, {**body, "metadata": body["metadata"] | {"finalizers": ["example.com/audit"]}})


def is_replaced(world: World) -> None:
    """Somebody has another object under the name of the run: the deletion finds that one, which stays."""
    world.remove(run(1).name)
    world.read(run(1).name, {"operation": "Load", "storage": {"url": run(3).url}})


@pytest.mark.adversary
@pytest.mark.parametrize("the_run", [is_as_it_was, is_held, is_replaced])
def test_nothing_is_removed_twice_though_the_watch_tells_of_the_delete_alone(the_run: Callable[[World], None]) -> None:
    """The run was deleted before it. The watch tells of that later; or never, if it was before the watch began."""

    async def scenario() -> None:
        world = await three_saved(LAST_2)
        await world.settle()
        (delete,) = world.removals
        uid = world.checkpoint(delete)["metadata"]["uid"]
        world.end(delete, "Succeeded")
        world.hear()
        the_run(world)
        await world.work()
        assert world.removals == []
        world.reconciler.view.forget(CHECKPOINTS, "team", delete, uid)
        await world.work()
        assert world.removals == []

    played(scenario)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "spec",
    [
        {"operation": "Load", "storage": {"url": "s3://bucket//run/20261124-090000/", "anon": True}},
        {"operation": "Verify", "storage": {"url": "s3://bucket/run/20261124-090000"}},
        {
            "operation": "Save",
            "storage": {"url": "s3://x/y"},
            "save": {"from": {"url": "s3://bucket/run/20261124-090000"}},
        },
    ],
    ids=["Load", "Verify", "Save"],
)
def test_what_is_read_is_removed_once_nobody_reads_it(spec: dict[str, Any]) -> None:
    """However its URL is spelt, and whatever the credentials."""

    async def scenario() -> None:
        world = await three_saved(LAST_2)
        world.read("reader", spec)
        await world.settle()
        assert world.removals == []
        assert world.status["retention"]["kept"][-1]["reasons"] == "the live Load reader reads it"
        world.woken.clear()
        world.end("reader", "Succeeded")
        world.hear()
        assert KEY in world.woken
        await world.settle()
        assert len(world.removals) == 1

    played(scenario)


@pytest.mark.adversary
def test_what_a_load_has_looked_up_is_kept_before_its_status_says_so() -> None:
    async def scenario() -> None:
        world = await three_saved({"spec.retention": {"last": 1}})
        runs = world.reconciler.runs
        key = world.read("resume", {"operation": "Load", "storage": {"latestOf": {"series": "nightly"}}})
        world.hear()
        found = runs.latest("team", "nightly").source
        assert found is not None
        assert found.name == run(3).name
        runs.reserve(key, found.url)
        # A newer one is committed while the status of the Load is on its way.
        await world.work(hours(4))
        world.hear()
        world.save(run(4).name, step=4)
        await world.settle()
        doomed = sorted(world.checkpoint(each)["spec"]["storage"]["url"] for each in world.removals)
        assert doomed == ["s3://bucket/run/20261124-090000", "s3://bucket/run/20261124-100000"]
        # Its status tells of another run's: then it is not read any more.
        world.end("resume", "Succeeded")
        await world.settle()
        assert len(world.removals) == 3

    played(scenario)


@pytest.mark.adversary
def test_a_delete_begins_after_all_is_heard_that_came_before_it() -> None:
    """A Load that the operator has not heard of yet, since its watch is late, is older: so the Delete waits for it."""

    async def scenario() -> None:
        world = await three_saved({"spec.retention": {"last": 3}})
        world.change("spec.retention", {"last": 2})
        world.hear()
        reader = world.read("reader", {"operation": "Load", "storage": {"url": run(1).url}})
        await world.work()
        (delete,) = world.removals
        served = world.reconciler.cache.served
        assert (served.body(reader), served.body(CHECKPOINTS.key("team", delete))) == (None, None)
        # The watch brings the Load first. Then the Delete is withdrawn before it has begun.
        await world.settle()
        assert world.removals == []
        assert world.status["retention"]["kept"][-1]["reasons"] == "the live Load reader reads it"

    played(scenario)


@pytest.mark.adversary
def test_a_delete_is_not_withdrawn_once_its_job_is_there_though_no_status_says_so() -> None:
    """Under load the status is written up to two seconds after the Job, which may have removed by then."""

    async def scenario() -> None:
        world = await three_saved(LAST_2)
        await world.settle()
        (delete,) = world.removals
        loaded = checkpoints(world.api, busy=lambda: True, now=lambda: world.now)
        seen(world.api, loaded)
        await loaded(CHECKPOINTS.key("team", delete))
        assert len(world.api.names(JOBS)) == 1
        assert "status" not in world.checkpoint(delete)
        world.annotate(run(1).name, pinned="true")
        await world.settle()
        assert world.removals == [delete]
        assert [each["name"] for each in world.status["retention"]["kept"]] == [run(3).name, run(2).name]

    played(scenario)


def test_annotations_keep_and_let_go() -> None:
    async def scenario() -> None:
        world = await three_saved(LAST_2)
        world.annotate(run(1).name, pinned="true")
        await world.settle()
        assert world.removals == []
        world.annotate(run(1).name, pinned="false", in_use_until="2026-11-24T12:00:00Z")
        await world.settle()
        assert world.status["retention"]["kept"][-1]["reasons"] == "in use until 2026-11-24 12:00:00 UTC"
        world.annotate(run(1).name, in_use_until="tomorrow")
        await world.settle()
        assert world.removals == [], "what can't be read was meant to keep"
        world.annotate(run(1).name, in_use_until="2026-11-24T10:59:00Z")
        await world.settle()
        assert len(world.removals) == 1

    played(scenario)


def test_a_delete_that_is_refused_keeps_nothing_else_from_going_on() -> None:
    async def scenario() -> None:
        world = await three_saved(LAST_2)

        def refuse(request: ApiRequest) -> Exception | None:
            refused = request.method == "POST" and (request.body or {}).get("spec", {}).get("operation") == "Delete"
            return RefusedError("exceeded quota: none", 403) if refused else None

        object.__setattr__(world.api, "refuse", refuse)
        assert await world.work(hours(4)) == 30
        assert run(4).name in world.names
        assert world.status["active"] == [run(4).name]
        object.__setattr__(world.api, "refuse", lambda _: None)
        await world.settle()
        assert len(world.removals) == 1

    played(scenario)


def test_a_delete_that_is_refused_keeps_no_other_from_being_made() -> None:
    """Such as one of a URL that a policy does not let through."""

    async def scenario() -> None:
        world = await three_saved({"spec.retention": {"last": 3}})

        def refuse(request: ApiRequest) -> Exception | None:
            asked = (request.body or {}).get("spec", {})
            denied = asked.get("operation") == "Delete" and asked["storage"]["url"] == run(1).url
            return RefusedError("denied", 403) if request.method == "POST" and denied else None

        object.__setattr__(world.api, "refuse", refuse)
        world.change("spec.retention", {"last": 1})
        world.hear()
        assert await world.work(hours(3.5)) == 30
        (made,) = world.removals
        assert world.checkpoint(made)["spec"]["storage"]["url"] == run(2).url

    played(scenario)


@pytest.mark.parametrize("answered", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("dies", [None, 1, 2, 3, 4])
def test_what_a_series_deletes_takes_no_data_along(dies: int | None, *, answered: bool) -> None:
    """The policy of its template is about what a person deletes, also where an operator ends in between."""

    async def scenario() -> None:
        limit = {"successful": 1, "failed": 0}
        world = World({"spec.historyLimit": limit, "spec.template.spec.deletionPolicy": "Delete"})
        for hour in (1, 2, 3):
            await world.work(hours(hour))
            world.hear()
            body = world.checkpoint(run(hour).name)
            assert body["spec"]["deletionPolicy"] == "Delete"
            world.api.add(CHECKPOINTS, {**body, "metadata": {**body["metadata"], "finalizers": [DATA_FINALIZER]}})
            world.save(run(hour).name, step=hour)
            world.hear()
        if dies is not None:
            world.api.dies_after(dies, answered=answered)
        for _ in range(2):
            try:
                await world.settle()
            except OperatorEndedError:
                world.start()
        policies = {}
        for hour in (1, 2, 3):
            body = world.checkpoint(run(hour).name)
            policies[hour] = (body["spec"]["deletionPolicy"], "deletionTimestamp" in body["metadata"])
        assert policies == {1: ("Retain", True), 2: ("Retain", True), 3: ("Delete", False)}

    played(scenario)
