"""Deleted Checkpoints against an API server in memory: the finalizer, the Delete, an operator that may end anywhere."""

from typing import Any

import pytest

from dcp_operator.api.naming import DATA_FINALIZER
from dcp_operator.kube.client.api import CHECKPOINTS, JOBS, ApiRequest, RefusedError
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
