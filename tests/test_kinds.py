"""A kind is a module of pure code: one that this file makes up is served like any other, and no module knows of it."""

import asyncio
import json
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import ATTEMPT_LABEL, UID_LABEL, job_name
from dcp_operator.api.problems import SpecError
from dcp_operator.api.site import Site
from dcp_operator.controllers.decision import Decision, Event
from dcp_operator.kube.client.api import JOBS, SERVICES, ObjectKey, Resource
from dcp_operator.kube.client.event_recorder import EventRecorder
from dcp_operator.kube.feed import resync
from dcp_operator.kube.feed.initial_list import fill
from dcp_operator.kube.feed.resync import Resync
from dcp_operator.kube.feed.watches import watches
from dcp_operator.kube.kinds import registry
from dcp_operator.kube.kinds.checkpoint import CHECKPOINT, OWNED_JOBS
from dcp_operator.kube.kinds.kind import Deletion, Kind, Kinds, OwnedResource, TwoReadersError, Values
from dcp_operator.kube.kopf_seam.watching import Change
from dcp_operator.kube.loop.queue import RetryLaterError, WorkQueue
from dcp_operator.kube.loop.reconcile import ReconcileContext, Reconcilers
from dcp_operator.kube.view.cache import Cache, ClusterView
from fake_api import FakeApi
from scenes import NOW, stamp
from test_permissions import GRANTED

# The kind: a Noop wants a ConfigMap and a Service for as long as it is not done. All that a kind needs to be is here.

NOOPS: Final = Resource("dcp-operator.io/v1alpha1", "Noop", "noops")
CONFIG_MAPS: Final = Resource("v1", "ConfigMap", "configmaps")


@dataclass(frozen=True)
class Noop:
    name: str
    uid: str
    done: bool


@dataclass(frozen=True)
class Make:
    name: str


@dataclass(frozen=True)
class Remove:
    name: str
    why: str = "it is done"


NoopDecision = Decision[Make | Remove]


def parse(body: ReadBody, site: Site, begun: bool) -> Noop:  # noqa: FBT001 - as Kind has it
    del site, begun
    done = body["spec"].get("done", False)
    if not isinstance(done, bool):
        raise SpecError(["spec.done: is no bool; write true or false"])
    return Noop(body["metadata"]["name"], body["metadata"]["uid"], done)


def decide(noop: Noop, names: list[str], status: ReadBody, now: datetime) -> NoopDecision:
    due = job_name(noop.name, noop.uid, "", 1)
    if noop.done:
        event = Event(type="Normal", reason="Done", message="There is nothing left to do.")
        return NoopDecision(
            actions=tuple(Remove(name) for name in names),
            status={"phase": "Done", "completionTime": stamp(0)},
            events=() if status.get("phase") == "Done" else (event,),
        )
    made = () if due in names else (Make(due),)
    waiting = {"phase": "Waiting", "observedGeneration": 1}
    return NoopDecision(actions=made, status=waiting, wake_at=now + timedelta(seconds=60))


def refuse(error: SpecError, body: ReadBody, names: list[str], now: datetime) -> NoopDecision:
    del body, names, now
    return NoopDecision(actions=(), status={"phase": "Failed", "message": str(error)})


def build(noop: Noop, action: Make | Remove) -> tuple[Body, ...]:
    if isinstance(action, Remove):
        return ()
    owner = {"apiVersion": NOOPS.api_version, "kind": "Noop", "name": noop.name, "uid": noop.uid, "controller": True}
    labels = {UID_LABEL: noop.uid, ATTEMPT_LABEL: "1"}
    metadata = {"name": action.name, "namespace": "team", "labels": labels, "ownerReferences": [owner]}
    return {"kind": "Service", "metadata": metadata}, {"kind": "ConfigMap", "metadata": metadata, "data": {"a": "b"}}


def deletes(action: Make | Remove) -> Deletion | None:
    return Deletion(action.name, action.why) if isinstance(action, Remove) else None


OWNED: Final[OwnedResource[str]] = OwnedResource(
    resource=CONFIG_MAPS,
    read=lambda body, *_: str(body["metadata"]["name"]),
    unread=lambda body: "",
)


def observe(values: Values) -> list[str]:
    return list(values.get("ConfigMap", ()))


NOOP: Final[Kind[Noop, list[str], Make | Remove]] = Kind(
    resource=NOOPS,
    owned=(OWNED,),
    unwatched=(SERVICES,),
    parse=parse,
    is_finished=lambda status: "completionTime" in status,
    observe=observe,
    decide=decide,
    refuse=refuse,
    build=build,
    deletes=deletes,
)

# The tests: the line in the registry, and everything else as it is.

KINDS: Final = Kinds.of((CHECKPOINT, NOOP))
KEY: Final = NOOPS.key("team", "one")
NAME: Final = job_name("one", "uid-one", "", 1)


@dataclass
class Operator:
    """The parts that a process puts together, over an API server in memory."""

    api: FakeApi = field(default_factory=FakeApi)

    def __post_init__(self) -> None:
        self.view = ClusterView(Cache(kinds=KINDS))
        self.recorder = EventRecorder(self.api, lambda: True)
        reconcilers = Reconcilers.of(ReconcileContext(self.api, self.view, self.recorder, now=lambda: NOW))
        self.reconcile, self.queue = reconcilers, WorkQueue[ObjectKey](reconcilers)
        self.watches = {each.resource.kind: each for each in watches(self.view, self.queue)}

    def apply(self, **spec: Any) -> None:
        there = self.api.objects.get(NOOPS.path("team", "one"), {})
        before = there.get("metadata", {"generation": 0})
        metadata = before | {"name": "one", "namespace": "team", "generation": before["generation"] + 1}
        self.watches["Noop"].hear(Change.CHANGED, self.api.add(NOOPS, there | {"metadata": metadata, "spec": spec}))

    async def work(self) -> float | None:
        return await self.reconcile(KEY)

    def hear_of_config_maps(self) -> None:
        for each in list(self.api.objects.values()):
            if each["kind"] == "ConfigMap":
                self.watches["ConfigMap"].hear(Change.CHANGED, each)

    def status(self) -> Any:
        return self.api.objects[NOOPS.path("team", "one")].get("status")


async def served(operator: Operator) -> None:
    """Apply a Noop and work until there is nothing left to do for now."""
    operator.apply()
    assert await operator.work() == 60
    operator.hear_of_config_maps()
    assert await operator.work() == 60


def test_it_is_watched_with_what_it_owns() -> None:
    async def scenario() -> None:
        found = {kind: each.selector for kind, each in Operator().watches.items()}
        assert found == {"Checkpoint": "", "Noop": "", "Job": UID_LABEL, "Pod": UID_LABEL, "ConfigMap": UID_LABEL}

    asyncio.run(scenario())


def test_it_is_cached_queued_and_reconciled_and_its_status_is_written() -> None:
    async def scenario() -> None:
        operator = Operator()
        operator.apply()
        assert (operator.view.cache.count(NOOPS), operator.queue.depth) == (1, 1)
        assert operator.view.cache.served.parsed(KEY) == Noop("one", "uid-one", done=False)
        assert await operator.work() == 60
        writes = [f"POST services/{NAME}", f"POST configmaps/{NAME}", "PUT noops/one"]
        assert operator.api.writes() == writes
        assert operator.status() == {"phase": "Waiting", "observedGeneration": 1}
        # The ConfigMap's own news brings the Noop to the queue, and to no other write.
        operator.hear_of_config_maps()
        assert operator.view.cache.owned.of(KEY, "uid-one") == {"ConfigMap": [NAME]}
        assert await operator.work() == 60
        assert operator.api.writes() == []

    asyncio.run(scenario())


def test_what_it_owns_is_deleted_by_the_same_check() -> None:
    async def scenario() -> None:
        operator = Operator()
        await served(operator)
        forged = {"name": "theirs", "namespace": "team", "labels": {UID_LABEL: "uid-one", ATTEMPT_LABEL: "1"}}
        operator.api.add(CONFIG_MAPS, {"metadata": forged})
        operator.hear_of_config_maps()
        assert operator.view.cache.owned.of(KEY, "uid-one") == {"ConfigMap": [NAME]}
        operator.api.writes()
        operator.apply(done=True)
        assert await operator.work() is None
        deleted = [f"DELETE services/{NAME}", f"DELETE configmaps/{NAME}"]
        assert operator.api.writes() == ["PUT noops/one", *deleted]
        assert operator.api.names(CONFIG_MAPS) == ["theirs"]
        event = operator.recorder._waiting.get_nowait()
        assert (event[1].reason, event[3]) == ("Done", NOOPS)
        assert operator.view.cache.served.at_rest(KEY) is False, "its status tells of no generation"

    asyncio.run(scenario())


def test_a_name_that_it_needs_and_somebody_else_holds_is_not_adopted() -> None:
    async def scenario() -> None:
        operator = Operator()
        operator.apply()
        operator.api.add(CONFIG_MAPS, {"metadata": {"name": NAME, "namespace": "team"}})
        with pytest.raises(RetryLaterError, match="exists already and belongs to nobody"):
            await operator.work()
        assert operator.api.names(CONFIG_MAPS) == [NAME]

    asyncio.run(scenario())


def test_what_can_not_be_parsed_is_refused_by_the_kind() -> None:
    async def scenario() -> None:
        operator = Operator()
        operator.apply(done="perhaps")
        await operator.work()
        assert operator.status() == {"phase": "Failed", "message": "spec.done: is no bool; write true or false"}

    asyncio.run(scenario())


def test_a_start_lists_it_and_a_resync_finds_what_a_watch_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resync, "PATIENCE", 0.05)

    async def scenario() -> None:
        before = Operator()
        await served(before)
        operator = Operator(before.api)
        await fill(operator.api, operator.view, operator.queue, ["team"])
        assert (operator.view.cache.count(NOOPS), operator.view.cache.count(CONFIG_MAPS)) == (1, 1)
        assert operator.queue.depth == 1
        woken: list[ObjectKey] = []
        compared = Resync(operator.api, operator.view, woken.append, ("team",))
        del operator.api.objects[CONFIG_MAPS.path("team", NAME)]
        assert await compared.compare(CONFIG_MAPS) == 1
        assert woken == [KEY]
        # So it is made anew.
        await operator.work()
        assert operator.api.names(CONFIG_MAPS) == [NAME]
        operator.api.objects.pop(NOOPS.path("team", "one"))
        assert await compared.compare(NOOPS) == 1
        assert operator.view.cache.served.body(KEY) is None

    asyncio.run(scenario())


def test_two_kinds_own_one_resource_only_if_they_read_it_alike() -> None:
    alike = replace(NOOP, owned=(OWNED_JOBS,))
    assert Kinds.of((CHECKPOINT, alike)).owned["Job"] is OWNED_JOBS
    with pytest.raises(TwoReadersError, match="two kinds read jobs differently"):
        Kinds.of((CHECKPOINT, replace(NOOP, owned=(replace(OWNED, resource=JOBS),))))


def test_a_body_of_the_kind_is_json() -> None:
    """What the cache keeps of a finished object is packed as JSON."""
    cache = Cache(kinds=KINDS)
    metadata = {"name": "one", "namespace": "team", "uid": "uid-one", "resourceVersion": "1"}
    cache.put(NOOPS, {"metadata": metadata, "spec": {"done": True}, "status": {"completionTime": stamp(0)}})
    body = cache.served.body(KEY)
    assert body is not None
    assert json.loads(json.dumps(body))["spec"] == {"done": True}
    assert cache.served.parsed(KEY) == Noop("one", "uid-one", done=True)


def test_the_operators_role_allows_what_each_kind_of_the_registry_asks_for() -> None:
    """A kind without these rights is watched in vain."""
    for kind in registry.KINDS.served.values():
        needed = {
            kind.resource.plural: {"get", "list", "watch"},
            f"{kind.resource.plural}/status": {"update"},
            **{each.resource.plural: {"list", "watch"} for each in kind.owned},
            **{each.plural: {"get", "create", "delete"} for each in kind.unwatched},
        }
        allowed = {resource: verbs for (_, resource), verbs in GRANTED.items()}
        assert [name for name, verbs in needed.items() if not verbs <= allowed.get(name, set())] == []
