"""Deleted Checkpoints against an API server in memory: the finalizer, the Delete, an operator that may end anywhere."""

from datetime import datetime
from typing import Any

import pytest

from dcp_operator.api.naming import DATA_FINALIZER, data_removal_name
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, ApiRequest, RefusedError
from dcp_operator.kube.view.data_removals import AT_ONCE, DataRemovals
from deletion_world import NAME, REMOVED, SAVE, SAVED, World, counted, played
from fake_api import put_pod
from scenes import URL, at, manifest, stamp


def test_the_finalizer_is_there_before_anything_may_be_saved() -> None:
    async def scenario() -> None:
        world = World()
        await world.through()
        writes = [each for each in world.api.writes() if "checkpoints" in each or "jobs" in each]
        assert writes[0] == f"PATCH checkpoints/{NAME}"
        assert writes[1].startswith("POST jobs/")
        body = world.body()
        assert body is not None
        assert body["metadata"]["finalizers"] == [DATA_FINALIZER]
        assert body["spec"] == {**manifest()["spec"], "deletionPolicy": "Delete", "workers": {"device": "cpu"}}

    played(scenario)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"spec.deletionPolicy": None}, id="Retain is the default"),
        pytest.param({"spec.operation": "Load"}, id="a Load saves nothing"),
    ],
)
def test_where_nothing_is_to_be_removed_there_is_no_finalizer(changes: dict[str, Any]) -> None:
    async def scenario() -> None:
        world = World(changes)
        await world.through()
        body = world.body()
        assert body is not None
        assert "finalizers" not in body["metadata"]
        assert world.api.names(JOBS)

    played(scenario)


def test_who_changes_the_policy_changes_the_finalizer_and_nobody_elses() -> None:
    async def scenario() -> None:
        world = World()
        world.change(metadata={"finalizers": ["example.com/mine"]})
        await world.through()
        for policy, expected in (("Retain", []), ("Delete", [DATA_FINALIZER]), ("Retain", [])):
            body = world.body()
            assert body is not None
            generation = body["metadata"]["generation"] + 1
            world.change(spec={**body["spec"], "deletionPolicy": policy}, metadata={"generation": generation})
            await world.through()
            body = world.body()
            assert body is not None
            assert body["metadata"]["finalizers"] == ["example.com/mine", *expected]

    played(scenario)


def test_without_the_permission_nothing_is_begun_and_the_status_says_so() -> None:
    """An operator's roles may be older than the operator."""

    async def scenario() -> None:
        world = World()

        def refuse(request: ApiRequest) -> Exception | None:
            return RefusedError("checkpoints is forbidden", 403) if request.method == "PATCH" else None

        object.__setattr__(world.api, "refuse", refuse)
        await world.work()
        body = world.body()
        assert body is not None
        assert (body["status"]["phase"], body["status"]["reason"]) == ("Pending", "Forbidden")
        assert world.api.names(JOBS) == []
        object.__setattr__(world.api, "refuse", lambda _: None)
        await world.through(at(60))
        assert world.api.names(JOBS)

    played(scenario)


@pytest.mark.parametrize("answered", [False, True], ids=["before it", "after it"])
@pytest.mark.parametrize("dies", range(14))
def test_an_operator_may_end_at_any_request(dies: int, *, answered: bool) -> None:
    """From the first look to the end there is one Delete, one event, and no moment at which the data could be lost."""

    async def scenario() -> None:
        world = World()
        await world.through()
        world.change(status=SAVED)
        await world.through()
        world.api.writes()
        before = counted("removed")
        world.delete()
        world.api.dies_after(dies, answered=answered)
        await world.through()
        removal = world.body(world.removal)
        assert removal is not None
        assert removal["spec"]["delete"] == {"saveId": SAVE}
        world.change(world.removal, status=REMOVED)
        await world.through()
        assert world.body() is None
        posts = [each for each in world.api.writes() if each == f"POST checkpoints/{world.removal}"]
        assert len(posts) == 1
        assert [each["reason"] for each in world.events if each["reason"].startswith("Data")] == ["DataRemoved"]
        assert counted("removed") - before in {0, 1}

    played(scenario)


def test_the_delete_gets_there_as_the_save_did() -> None:
    async def scenario() -> None:
        pod = {
            "spec": {
                "serviceAccountName": "saver",
                "containers": [{"name": "worker", "resources": {"limits": {"cpu": "8"}}}],
            }
        }
        storage = {"url": URL, "options": {"region": "eu"}, "credentialsSecretRef": {"name": "s3"}}
        world = World({"spec.storage": storage, "spec.workers": {"image": "mine", "podTemplate": pod, "numNodes": 8}})
        await world.through()
        world.change(status=SAVED)
        world.delete()
        await world.work()
        made = world.body(world.removal)
        assert made is not None
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("Checkpoint", NAME, True)
        worker = {"spec": {"serviceAccountName": "saver", "containers": [{"name": "worker"}]}}
        assert made["spec"] == {
            "operation": "Delete",
            "storage": storage,
            "delete": {"saveId": SAVE},
            "workers": {"image": "mine", "podTemplate": worker},
            "retries": 20,
            "timeouts": {"startSeconds": 600, "activeSeconds": 3600},
        }

    played(scenario)


def test_a_save_under_way_is_stopped_and_what_it_has_committed_is_looked_for() -> None:
    async def scenario() -> None:
        world = World()
        await world.through()
        assert world.api.names(JOBS)
        world.delete()
        await world.through()
        assert world.api.names(JOBS) == []
        made = world.body(world.removal)
        assert made is not None
        assert made["spec"]["delete"] == {"savedBy": f"uid-{NAME}"}

    played(scenario)


def test_nothing_is_looked_for_while_a_pod_may_still_commit() -> None:
    async def scenario() -> None:
        world = World({"spec.retries": 0})
        await world.through()
        put_pod(world.api, "Running", {"running": {"startedAt": stamp(0)}})
        await world.through()
        world.delete()
        await world.through()
        await world.work(name=world.removal)
        await world.work(name=world.removal)
        waits = world.body(world.removal)
        assert waits is not None
        assert waits["status"]["reason"] == "UrlInUse"
        assert f"pods of Checkpoint {NAME} still run on the same URL" in waits["status"]["conditions"][0]["message"]
        (pod,) = [path for path, each in world.api.objects.items() if each["kind"] == "Pod"]
        del world.api.objects[pod]
        await world.work(at(6), name=world.removal)
        assert len(world.api.names(JOBS)) == 1, "the Delete's own"

    played(scenario)


def test_what_was_never_begun_goes_at_once() -> None:
    async def scenario() -> None:
        world = World({"spec.suspend": True})
        await world.through()
        before = counted("nothing")
        world.delete()
        await world.through()
        assert (world.body(), world.body(world.removal), counted("nothing") - before) == (None, None, 1)

    played(scenario)


def test_a_failure_is_tried_again_and_then_let_go() -> None:
    async def scenario() -> None:
        world = World({"spec.timeouts": {"deletionSeconds": 60}})
        await world.through()
        world.change(status=SAVED)
        world.delete()
        await world.through()
        first = world.body(world.removal)
        assert first is not None
        ready: dict[str, Any] = {
            "type": "Ready",
            "status": "False",
            "reason": "StorageDenied",
            "message": "the keys are read-only",
        }
        ready |= {"lastTransitionTime": stamp(5), "observedGeneration": 1}
        denied = {"phase": "Failed", "reason": "StorageDenied", "completionTime": stamp(5), "conditions": [ready]}
        world.change(world.removal, status=denied)
        assert await world.work(at(5)) == 10
        body = world.body()
        assert body is not None
        (said,) = [each for each in body["status"]["conditions"] if each["type"] == "Deleting"]
        assert "can't be removed: the keys are read-only." in said["message"]
        await world.through(at(15))
        second = world.body(world.removal)
        assert second is not None
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        world.change(world.removal, status={"phase": "Starting", "conditions": [ready | {"message": "it starts"}]})
        before = counted("kept")
        await world.work(at(60))
        # Woken once more before the watch tells that it is gone.
        await world.reconciler(CHECKPOINTS.key("team", NAME))
        assert (world.body(), counted("kept") - before) == (None, 1)
        (event,) = [each for each in world.events if each["reason"] == "DataKept"]
        assert event["message"] == f"The data at {URL} stay: they were not removed within 1m00s: it starts"

    played(scenario)


@pytest.mark.adversary
def test_who_claims_to_be_the_removal_is_not_believed() -> None:
    """Anybody may name an owner. The name is the operator's own, and taken only by what that owner controls."""

    async def scenario() -> None:
        world = World()
        await world.through()
        world.change(status=SAVED)
        owner = {"apiVersion": CHECKPOINTS.api_version, "kind": "Checkpoint", "name": NAME, "uid": f"uid-{NAME}"}
        forged = {"metadata.ownerReferences": [{**owner, "controller": True}], "status": REMOVED}
        world.put(forged, "forged")
        world.put({"status": REMOVED}, world.removal)
        world.delete()
        await world.through()
        body = world.body()
        assert body is not None
        (said,) = [each for each in body["status"]["conditions"] if each["type"] == "Deleting"]
        assert (said["reason"], "belongs to nobody" in said["message"]) == ("Forbidden", True)

    played(scenario)


@pytest.mark.adversary
def test_who_names_an_owner_of_another_namespace_is_no_removal() -> None:
    """Manifests in a shared bucket tell uids. What comes and goes elsewhere under one changes nothing here."""

    async def scenario() -> None:
        world = World()
        await world.through()
        world.change(status=SAVED)
        owner = {"apiVersion": CHECKPOINTS.api_version, "kind": "Checkpoint", "name": NAME, "uid": f"uid-{NAME}"}
        named = {"metadata.namespace": "elsewhere", "metadata.name": world.removal, "metadata.uid": "uid-forged"}
        forged = {**named, "metadata.ownerReferences": [{**owner, "controller": True}], "spec.operation": "Delete"}
        for finished in (False, True):
            world.api.add(
                CHECKPOINTS, manifest({**forged, "spec.workload": None, "status": REMOVED if finished else {}})
            )
            await world.work()
        world.delete()
        await world.through()
        own = world.body(world.removal)
        assert own is not None
        assert own["metadata"]["namespace"] == "team"
        assert world.body() is not None, "its own Delete has yet to end"
        del world.api.objects[CHECKPOINTS.path("elsewhere", world.removal)]
        world.change(world.removal, status=REMOVED)
        await world.through()
        assert world.body() is None

    played(scenario)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "other",
    [
        pytest.param({"spec.storage": {"url": f"{URL}-other"}}, id="another URL"),
        pytest.param({"spec.delete": {"saveId": "b" * 32}}, id="another save"),
        pytest.param({"spec.operation": "Verify", "spec.delete": None}, id="another operation"),
    ],
)
def test_a_removal_of_something_else_is_none_of_this(other: dict[str, Any]) -> None:
    """Who may create Checkpoints may make one of that very name and owner: it says nothing of the data."""

    async def scenario() -> None:
        world = World()
        await world.through()
        world.change(status=SAVED)
        owner = {"apiVersion": CHECKPOINTS.api_version, "kind": "Checkpoint", "name": NAME, "uid": f"uid-{NAME}"}
        removes = {"spec.operation": "Delete", "spec.workload": None}
        changes = {
            **removes,
            "spec.delete": {"saveId": SAVE},
            "metadata.ownerReferences": [{**owner, "controller": True}],
        }
        world.put({**changes, **other, "status": REMOVED}, world.removal)
        world.delete()
        await world.through()
        body = world.body()
        assert body is not None
        (said,) = [each for each in body["status"]["conditions"] if each["type"] == "Deleting"]
        assert f"Checkpoint {world.removal} has its name and removes something else; delete it" in said["message"]
        del world.api.objects[CHECKPOINTS.path("team", world.removal)]
        await world.through(at(20))
        made = world.body(world.removal)
        assert made is not None
        assert made["spec"]["delete"] == {"saveId": SAVE}

    played(scenario)


@pytest.mark.adversary
def test_of_hundreds_that_are_deleted_at_once_some_are_removed_at_a_time() -> None:
    """Each removal is a Job. A place is free as soon as a Delete has ended, whether it removed anything or not."""

    async def scenario() -> None:
        world = World()
        names = [f"save-{number}" for number in range(AT_ONCE + 3)]
        for name in names:
            world.put({"spec.deletionPolicy": "Delete", "spec.storage.url": f"s3://bucket/run/{name}"}, name)
            await world.work(name=name)
            world.change(name, status=SAVED)
            world.delete(name)

        async def begun(now: datetime) -> set[str]:
            for name in names:
                if world.body(name) is not None:
                    await world.work(now, name=name)
                    await world.work(now, name=name)
            return {name for name in names if world.body(data_removal_name(name, f"uid-{name}")) is not None}

        first = await begun(at(1))
        assert len(first) == AT_ONCE
        assert await begun(at(7)) == first
        (waits, *_) = sorted(set(names) - first)
        body = world.body(waits)
        assert body is not None
        (said,) = [each for each in body["status"]["conditions"] if each["type"] == "Deleting"]
        assert "is removed after that of others" in said["message"]
        removed, failed = sorted(first)[:2]
        world.change(data_removal_name(removed, f"uid-{removed}"), status=REMOVED)
        denied = {**REMOVED, "phase": "Failed", "reason": "StorageDenied", "completionTime": stamp(13)}
        world.change(data_removal_name(failed, f"uid-{failed}"), status=denied)
        assert len(await begun(at(13)) - first) == 2
        assert world.body(removed) is None

    played(scenario)


def test_a_place_is_of_a_bucket_and_of_a_namespace() -> None:
    """A store that is away holds up nobody else's."""
    removals = DataRemovals()
    for number in range(AT_ONCE):
        assert removals.begin("team", f"s3://bucket/{number}", f"uid-{number}")
    assert removals.begin("team", "s3://bucket/0", "uid-0"), "its own"
    assert not removals.begin("team", "s3://bucket/x", "uid-x")
    assert removals.begin("team", "s3://other/x", "uid-x")
    assert removals.begin("elsewhere", "s3://bucket/x", "uid-y")
    removals.end("team", "uid-3")
    assert removals.begin("team", "s3://bucket/z", "uid-z")
