"""Removals that somebody forges, and many at once, against an API server in memory."""

from datetime import datetime
from typing import Any

import pytest

from dcp_operator.api.naming import data_removal_name
from dcp_operator.kube.client.api import CHECKPOINTS
from dcp_operator.kube.view.data_removals import AT_ONCE, DataRemovals
from deletion_world import NAME, REMOVED, SAVE, SAVED, World, played
from scenes import URL, at, manifest, stamp


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
