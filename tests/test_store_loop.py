"""Stores and their operator over an API server in memory: validated, validated again, and never by two at once."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from dcp_operator.api.json_types import Body
from dcp_operator.api.store.status import StoreStatus
from dcp_operator.kube.client.api import CHECKPOINTS, STORES, ObjectKey
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.loop.reconcile import ReconcileContext
from dcp_operator.kube.loop.stores import StoreReconciler
from dcp_operator.kube.view.cache import Cache, ClusterView
from dcp_operator.kube.view.stores import Stores
from fake_api import seen
from scenes import NOW, stamp
from series_world import DyingApi, OperatorEndedError
from store_scenes import Changes, store_manifest

FACTS = {"createGuard": "Atomic", "replaceGuard": "BestEffort"}


class World:
    """The objects, the time, and an operator that may be started anew."""

    def __init__(self) -> None:
        self.api, self.now = DyingApi(), NOW
        self.woken: list[ObjectKey] = []
        self.start()

    def start(self) -> None:
        """Start an operator that has seen all that there is."""
        self.api.lives()
        self.stores = Stores(self.woken.append)
        view = ClusterView(Cache(), {CHECKPOINTS.kind: (self.stores,), STORES.kind: (self.stores,)})
        recorder = EventRecorder(self.api, lambda: True)
        context = ReconcileContext(self.api, view, recorder, now=lambda: self.now, wake=self.woken.append)
        self.reconciler = StoreReconciler(context, stores=self.stores)
        self.hear()

    def hear(self) -> None:
        seen(self.api, self.reconciler)

    def apply(self, name: str, changes: Changes | None = None, *, age: int = 0) -> None:
        there = self.api.objects.get(STORES.path("team", name), {})
        before = there.get("metadata", {"creationTimestamp": stamp(-age), "generation": 0})
        metadata = before | {"name": name, "namespace": "team", "generation": before["generation"] + 1}
        self.api.add(STORES, there | store_manifest(changes) | {"metadata": metadata})

    async def work(self, name: str = "one") -> float | None:
        self.hear()
        return await self.reconciler(STORES.key("team", name))

    def validations(self) -> list[Body]:
        return [each for each in self.api.objects.values() if each["kind"] == "Checkpoint"]

    def end(self, status: dict[str, Any]) -> None:
        """End the validation that is under way, as its reconciler would."""
        (body,) = self.validations()
        ended = {"completionTime": f"{self.now:%Y-%m-%dT%H:%M:%SZ}", **status}
        self.api.add(CHECKPOINTS, body | {"status": ended})

    def succeed(self) -> None:
        self.end({"phase": "Succeeded", "reason": "Validated", "checkpoint": {"store": FACTS}})

    def fail(self) -> None:
        failure = {"reason": "StorageDenied", "message": "mend the keys"}
        self.end({"phase": "Failed", "reason": "StorageDenied", "failure": failure})

    def status(self, name: str = "one") -> StoreStatus:
        return StoreStatus.read(self.api.objects[STORES.path("team", name)].get("status"))

    def condition(self, kind: str, name: str = "one") -> tuple[str, str]:
        found = self.status(name).condition(kind)
        assert found is not None
        return found.status, found.reason


def test_a_store_is_validated_and_the_checkpoint_goes() -> None:
    async def scenario() -> None:
        world = World()
        world.apply("one")
        await world.work()
        (made,) = world.validations()
        owner = made["metadata"]["ownerReferences"][0]
        assert (owner["kind"], owner["name"], made["spec"]["operation"]) == ("CheckpointStore", "one", "Validate")
        assert CHECKPOINTS.key("team", made["metadata"]["name"]) in world.woken, "nobody else would begin it"
        assert world.condition("Available") == ("Unknown", "Validating")
        world.succeed()
        world.woken.clear()
        world.hear()
        assert STORES.key("team", "one") in world.woken
        assert await world.work() == 3600
        assert (world.validations(), world.condition("Available")) == ([], ("True", "Unguarded"))
        await world.work()
        assert world.validations() == []
        world.now += timedelta(hours=1)
        await world.work()
        assert len(world.validations()) == 1

    asyncio.run(scenario())


def test_one_that_failed_stays_until_the_next_one_begins() -> None:
    async def scenario() -> None:
        world = World()
        world.apply("one")
        await world.work()
        world.fail()
        assert await world.work() == 300
        (first,) = world.validations()
        assert world.condition("Available") == ("False", "StorageDenied")
        assert world.status().validation == first["metadata"]["name"]
        world.now += timedelta(seconds=300)
        await world.work()
        (second,) = world.validations()
        assert second["metadata"]["name"] != first["metadata"]["name"]

    asyncio.run(scenario())


@pytest.mark.parametrize("answered", [True, False])
@pytest.mark.parametrize("ends", ["succeed", "fail"])
def test_an_operator_may_end_at_any_request(ends: str, *, answered: bool) -> None:
    """It comes to the same, with one validation at a time."""

    async def scenario() -> None:
        world = World()
        world.apply("one")
        for requests in range(40):
            world.api.dies_after(requests, answered=answered)
            try:
                await world.work()
            except OperatorEndedError:
                world.start()
            world.api.lives()
            assert len(world.validations()) <= 1
            await world.work()
            assert len(world.validations()) <= 1
            if world.validations() and "status" not in world.validations()[0]:
                getattr(world, ends)()
            world.now += timedelta(seconds=120)
        assert world.status().last_validation_time is not None
        assert world.condition("Available")[0] == ("True" if ends == "succeed" else "False")

    asyncio.run(scenario())


def test_the_oldest_default_one_is_it_and_the_others_follow_when_it_goes() -> None:
    async def scenario() -> None:
        world = World()
        world.apply("new", {"default": True}, age=10)
        await world.work("new")
        assert world.condition("Default", "new") == ("True", "Oldest")
        world.woken.clear()
        world.apply("old", {"default": True}, age=20)
        world.hear()
        assert STORES.key("team", "new") in world.woken
        for name in ("old", "new"):
            await world.work(name)
        assert world.condition("Default", "new") == ("False", "OlderDefault")
        assert world.condition("Default", "old") == ("True", "Oldest")
        world.woken.clear()
        del world.api.objects[STORES.path("team", "old")]
        world.hear()
        assert STORES.key("team", "new") in world.woken
        await world.work("new")
        assert world.condition("Default", "new") == ("True", "Oldest")
        assert world.stores.default("team") == STORES.key("team", "new")
        assert world.stores.default("other") is None

    asyncio.run(scenario())


@pytest.mark.adversary
def test_a_checkpoint_that_is_no_validate_or_no_stores_own_is_neither_read_nor_deleted() -> None:
    async def scenario() -> None:
        world = World()
        world.apply("one")
        uid = world.api.objects[STORES.path("team", "one")]["metadata"]["uid"]
        ended = {"phase": "Succeeded", "reason": "Validated", "completionTime": stamp(0)}
        owner = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointStore", "name": "one", "controller": True}
        for name, operation, of in (("save", "Save", uid), ("stranger", "Validate", "another-uid")):
            metadata = {"name": name, "namespace": "team", "ownerReferences": [owner | {"uid": of}]}
            body = {"metadata": metadata, "spec": {"operation": operation}, "status": ended}
            world.api.add(CHECKPOINTS, body)
        await world.work()
        assert world.condition("Available") == ("Unknown", "Validating")
        assert {"save", "stranger"} <= {each["metadata"]["name"] for each in world.validations()}

    asyncio.run(scenario())


@pytest.mark.adversary
@pytest.mark.parametrize("status", [{}, {"phase": "Succeeded", "reason": "Validated", "completionTime": stamp(0)}])
def test_a_validate_of_another_namespace_neither_speaks_for_a_store_nor_holds_it_up(status: Body) -> None:
    """There anybody may name the uid of the store as the controller of what he makes."""

    async def scenario() -> None:
        world = World()
        world.apply("one")
        uid = world.api.objects[STORES.path("team", "one")]["metadata"]["uid"]
        owner = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointStore", "name": "one", "controller": True}
        metadata = {"name": "forged", "namespace": "next", "ownerReferences": [owner | {"uid": uid}]}
        world.api.add(CHECKPOINTS, {"metadata": metadata, "spec": {"operation": "Validate"}, "status": status})
        await world.work()
        assert world.condition("Available") == ("Unknown", "Validating")
        made = [each for each in world.validations() if each["metadata"]["namespace"] == "team"]
        assert len(made) == 1, "its own validation has begun"

    asyncio.run(scenario())


@pytest.mark.adversary
@pytest.mark.parametrize("generation", [0, 1, 9])
@pytest.mark.parametrize("status", [{}, {"phase": "Failed", "reason": "StorageDenied"}])
def test_a_validate_of_something_else_neither_speaks_for_a_store_nor_holds_it_up(generation: int, status: Body) -> None:
    """Whoever may make Checkpoints in the namespace may name the store as the controller of his own Validate."""

    async def scenario() -> None:
        world = World()
        world.apply("one")
        await world.work()
        world.succeed()
        await world.work()
        assert world.condition("Available") == ("True", "Unguarded")
        uid = world.api.objects[STORES.path("team", "one")]["metadata"]["uid"]
        owner = {"apiVersion": "dcp-operator.io/v1alpha1", "kind": "CheckpointStore", "name": "one", "controller": True}
        metadata: Body = {"name": "forged", "namespace": "team", "ownerReferences": [owner | {"uid": uid}]}
        metadata["annotations"] = {"dcp-operator.io/generation": str(generation)}
        ended = {"completionTime": stamp(60), "failure": {"reason": "StorageDenied", "message": "no"}} if status else {}
        spec = {"operation": "Validate", "storage": {"url": "s3://nowhere/.dcp-probe"}}
        world.api.add(CHECKPOINTS, {"metadata": metadata, "spec": spec, "status": status | ended})
        await world.work()
        assert world.condition("Available") == ("True", "Unguarded")
        world.now += timedelta(hours=1)
        await world.work()
        assert [each for each in world.validations() if each["metadata"]["name"] != "forged"], "it begins all the same"

    asyncio.run(scenario())


@pytest.mark.adversary
def test_a_validate_of_something_else_by_the_name_of_the_next_one_is_told_of() -> None:
    async def scenario() -> None:
        world = World()
        world.apply("one")
        await world.work()
        (made,) = world.validations()
        forged = made | {"spec": made["spec"] | {"storage": {"url": "s3://nowhere/.dcp-probe"}}}
        world.api.add(CHECKPOINTS, forged)
        world.start()
        assert await world.work() == 30
        assert world.condition("Available") == ("Unknown", "ValidationRefused")

    asyncio.run(scenario())
