"""Checkpoints that name a store, in an operator over an API server in memory: they wait, begin, stay, are refused."""

import contextlib
from typing import Any

import pytest

from dcp_operator.api.naming import data_removal_name
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.named_stores import NamedStores
from dcp_operator.kube.view.stores import Stores
from deletion_world import KEY, REMOVED, SAVE, World, played
from fake_api import seen
from named_store_scenes import IN_STORE, PREFIX, available, drop_store, put_store
from scenes import at, manifest, stamp
from series_world import OperatorEndedError

URL = f"{PREFIX}/run/step-1000"
RETAIN = {"spec.storage": IN_STORE, "spec.deletionPolicy": "Retain"}


def state(world: World) -> tuple[str, str]:
    body = world.body()
    assert body is not None
    status = body.get("status") or {}
    return status.get("phase", ""), status.get("reason", "")


def said(world: World) -> str:
    body = world.body()
    assert body is not None
    return str(next(each["message"] for each in body["status"]["conditions"] if each["type"] == "Ready"))


def tasks(world: World) -> list[str]:
    """Return the environments of the worker pods of all Jobs, the tasks among them."""
    jobs = [each for each in world.api.objects.values() if each["kind"] == JOBS.kind]
    return [str(each["spec"]["template"]["spec"]["containers"][0]["env"]) for each in jobs]


def test_it_waits_for_its_store_and_is_woken_by_it() -> None:
    async def scenario() -> None:
        world = World(RETAIN)
        await world.through()
        assert state(world) == ("Pending", "StoreNotFound")
        assert said(world).startswith("Attempt 1 waits: store bucket does not exist. Apply the CheckpointStore")
        woken: list[object] = []
        object.__setattr__(world.reconciler.view, "wake", woken.append)
        for status, reason in (({}, "StoreNotAvailable"), (available("False", "Wrong keys."), "StoreNotAvailable")):
            put_store(world.api, status=status)
            seen(world.api, world.reconciler)
            assert woken.pop() == KEY
            await world.through()
            assert (state(world), woken) == (("Pending", reason), [])
        assert said(world).startswith("Attempt 1 waits: store bucket is not Available: Wrong keys. Look at the store")
        # A store that is as it was wakes nobody.
        put_store(world.api, status=available("False", "Wrong keys.") | {"lastValidationTime": stamp(5)})
        seen(world.api, world.reconciler)
        assert woken == []
        put_store(world.api)
        await world.through()
        assert (state(world), woken) == (("Starting", ""), [KEY])
        (task,) = tasks(world)
        assert f'"url":"{URL}"' in task

    played(scenario)


def test_a_default_store_that_cannot_be_read_is_waited_for_and_no_other_one_is_taken() -> None:
    async def scenario() -> None:
        world = World({**RETAIN, "spec.storage": {"path": "run/step-1000"}})
        put_store(world.api, "a-broken", default=True, url="nowhere")
        put_store(world.api, "b-whole", default=True)
        await world.through()
        assert state(world) == ("Pending", "StoreNotAvailable")
        assert "store a-broken can't be used: spec.url: " in said(world)
        put_store(world.api, "a-broken", default=False, url="nowhere")
        await world.through()
        assert state(world) == ("Starting", "")
        (task,) = tasks(world)
        assert f'"url":"{URL}"' in task

    played(scenario)


@pytest.mark.parametrize("requests", range(5))
def test_the_place_is_written_down_before_the_first_attempt_and_stays(requests: int) -> None:
    """An operator ends anywhere, and the store is another place as soon as the next one looks."""

    async def scenario() -> None:
        world = World(RETAIN)
        put_store(world.api, credentialsSecretRef={"name": "keys"})
        world.start()
        world.api.dies_after(requests, answered=True)
        with contextlib.suppress(OperatorEndedError):
            await world.work()
        body = world.body()
        assert body is not None
        first = (body.get("status") or {}).get("store", {}).get("url", "")
        assert first in {"", URL}
        put_store(world.api, generation=2, url="s3://two/elsewhere")
        world.start()
        await world.through()
        where = first or "s3://two/elsewhere/run/step-1000"
        body = world.body()
        assert body is not None
        assert body["status"]["store"]["url"] == where
        assert [f'"url":"{where}"' in each for each in tasks(world)] == [True]
        # What was written is what was written: the operator changes no spec.
        assert body["spec"]["storage"] == IN_STORE
        # The next attempt, and another run, go to the same place.
        await fail_attempt(world)
        assert all(f'"url":"{where}"' in each for each in tasks(world))
        metadata = {"generation": 2}
        world.change(spec={**body["spec"], "runId": "again"}, metadata=metadata)
        await world.through()
        last = world.body()
        assert last is not None
        assert last["status"]["store"]["url"] == where
        assert all(f'"url":"{where}"' in each for each in tasks(world))

    played(scenario)


async def fail_attempt(world: World) -> None:
    """Have the Job of the attempt fail, and bring the Checkpoint to where it begins another one."""
    (job,) = [each for each in world.api.objects.values() if each["kind"] == JOBS.kind]
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "lastTransitionTime": stamp(1)}
    world.api.add(JOBS, {**job, "status": {"failed": 1, "conditions": [failed]}})
    await world.through(at(60))
    await world.through(at(3600))


@pytest.mark.parametrize(
    ("changes", "phase"),
    [
        ({}, ("Failed", "StoreReadOnly")),
        ({"spec.operation": "Load"}, ("Starting", "")),
        ({"spec.operation": "Verify", "spec.workload": None}, ("Starting", "")),
        ({"spec.operation": "Validate", "spec.workload": None}, ("Failed", "StoreReadOnly")),
        (
            {"spec.operation": "Validate", "spec.workload": None, "spec.validate": {"readOnly": True}},
            ("Starting", ""),
        ),
        ({"spec.operation": "Delete", "spec.workload": None}, ("Failed", "StoreReadOnly")),
        (
            {"spec.operation": "Copy", "spec.workload": None, "spec.copy": {"from": {"url": "s3://from/here"}}},
            ("Failed", "StoreReadOnly"),
        ),
    ],
)
def test_nothing_changes_what_stands_in_a_store_that_is_read_only(
    changes: dict[str, Any], phase: tuple[str, str]
) -> None:
    async def scenario() -> None:
        world = World({**RETAIN, **changes})
        # It is refused at once: also while the store is not available.
        ready = available("False") if phase[0] == "Failed" else available()
        put_store(world.api, accessMode="ReadOnly", status=ready)
        await world.through()
        assert state(world) == phase
        assert bool(world.api.names(JOBS)) is (phase[0] == "Starting")
        if phase[0] == "Failed":
            assert said(world).startswith(
                f"Store bucket is ReadOnly, and a {changes.get('spec.operation', 'Save')} changes"
            )

    played(scenario)


def test_the_default_store_is_the_oldest() -> None:
    async def scenario() -> None:
        world = World({**RETAIN, "spec.storage": {"path": "run/step-1000"}})
        put_store(world.api, "other")
        await world.through()
        assert said(world).startswith("Attempt 1 waits: the namespace has no default store.")
        put_store(world.api, "bucket", default=True)
        await world.through()
        body = world.body()
        assert body is not None
        assert (state(world)[0], body["status"]["store"]["name"]) == ("Starting", "bucket")

    played(scenario)


def saved(world: World, url: str = URL) -> None:
    """Have the Save end, as its reconciles would."""
    body = world.body()
    assert body is not None
    done = {"phase": "Succeeded", "reason": "Saved", "completionTime": stamp(0)}
    world.change(status={**body["status"], **done, "checkpoint": {"url": url, "saveId": SAVE}})


@pytest.mark.parametrize("becomes", ["another place", "gone", "renamed keys"])
def test_a_deletion_removes_where_it_saved(becomes: str) -> None:
    async def scenario() -> None:
        world = World({"spec.storage": IN_STORE})
        put_store(world.api, credentialsSecretRef={"name": "keys"}, options={"region": "eu"})
        await world.through()
        saved(world)
        await world.through()
        keys = "keys"
        if becomes == "another place":
            put_store(world.api, generation=2, url="s3://two/elsewhere", credentialsSecretRef={"name": "others"})
        elif becomes == "gone":
            drop_store(world.api)
        else:
            keys = "renewed"
            put_store(world.api, generation=2, credentialsSecretRef={"name": keys}, options={"region": "eu"})
        world.delete()
        await world.through()
        removal = world.body(data_removal_name(world.name, f"uid-{world.name}"))
        assert removal is not None
        access = {"options": {"region": "eu"}, "credentialsSecretRef": {"name": keys}}
        assert removal["spec"]["storage"] == {"url": URL, **access}
        world.change(world.removal, status=REMOVED)
        await world.through()
        assert world.body() is None

    played(scenario)


def test_a_deletion_waits_for_a_store_that_is_read_only_until_its_deadline() -> None:
    async def scenario() -> None:
        world = World({"spec.storage": IN_STORE, "spec.timeouts": {"deletionSeconds": 600}})
        put_store(world.api)
        await world.through()
        saved(world)
        # How the store is asked makes no other place of it.
        put_store(world.api, generation=2, accessMode="ReadOnly", options={"readTimeout": 60})
        world.delete()
        await world.through()
        body = world.body()
        assert body is not None
        (condition,) = [each for each in body["status"]["conditions"] if each["type"] == "Deleting"]
        assert condition["reason"] == "StoreReadOnly"
        assert world.removal not in world.api.names(CHECKPOINTS)
        await world.through(at(601))
        assert world.body() is None
        (event,) = [each for each in world.events if each["reason"] == "DataKept"]
        assert (
            event["message"]
            == f"The data at {URL} stay: they were not removed within 10m00s: store bucket is ReadOnly."
        )

    played(scenario)


def test_a_deletion_goes_on_once_the_store_may_be_written() -> None:
    async def scenario() -> None:
        world = World({"spec.storage": IN_STORE})
        put_store(world.api)
        await world.through()
        saved(world)
        put_store(world.api, generation=2, accessMode="ReadOnly")
        world.delete()
        await world.through()
        put_store(world.api, generation=3)
        await world.through()
        assert world.removal in world.api.names(CHECKPOINTS)

    played(scenario)


@pytest.mark.parametrize(("phase", "stays"), [("Pending", False), ("Running", True)])
def test_a_removal_that_has_not_begun_is_withdrawn_once_the_store_is_read_only(phase: str, *, stays: bool) -> None:
    """It may wait for whoever reads what it is to remove."""

    async def scenario() -> None:
        world = World({"spec.storage": IN_STORE})
        put_store(world.api)
        await world.through()
        saved(world)
        world.delete()
        await world.through()
        world.change(world.removal, status={"phase": phase})
        put_store(world.api, generation=2, accessMode="ReadOnly")
        await world.through()
        assert (world.removal in world.api.names(CHECKPOINTS)) is stays

    played(scenario)


def test_a_removal_under_way_is_made_anew_by_renewed_keys() -> None:
    async def scenario() -> None:
        world = World({"spec.storage": IN_STORE})
        put_store(world.api, credentialsSecretRef={"name": "keys"})
        await world.through()
        saved(world)
        world.delete()
        await world.through()
        put_store(world.api, generation=2, credentialsSecretRef={"name": "renewed"})
        await world.through()
        await world.through(at(60))
        removal = world.body(world.removal)
        assert removal is not None
        assert removal["spec"]["storage"] == {"url": URL, "credentialsSecretRef": {"name": "renewed"}}

    played(scenario)


def test_two_that_come_to_one_place_take_turns() -> None:
    """Claims see the URL: also of one that waits while its store is not there yet."""

    async def scenario() -> None:
        world = World(RETAIN)
        world.put({"spec.storage": {"url": URL}, "spec.workers": {"device": "cpu"}}, "direct")
        await world.work(name="direct")
        await world.through()
        assert state(world) == ("Pending", "StoreNotFound")
        put_store(world.api)
        await world.through()
        assert state(world) == ("Pending", "UrlInUse")
        assert "direct" in said(world)

    played(scenario)


def test_what_is_gone_is_not_looked_up_again_for_ever() -> None:
    """In a namespace whose stores never change nothing else would forget the thousands that come and go."""
    named = NamedStores(Cache(), Stores())
    view = ClusterView(named.cache, lookup=named)
    for each in range(3):
        body = manifest({"metadata.name": f"save-{each}", "metadata.uid": f"uid-{each}", "spec.storage": IN_STORE})
        metadata = body["metadata"] | {"resourceVersion": str(each + 1), "deletionTimestamp": stamp(0)}
        view.ingest(CHECKPOINTS, body | {"metadata": metadata})
        view.forget(CHECKPOINTS, "team", f"save-{each}", f"uid-{each}")
    assert sum(map(len, named._naming.values())) == 0
