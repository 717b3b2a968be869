"""A Save of a running training from the object to the acknowledgement: reconciles, the channel and an agent together.

The API server is in memory, the channel is real. The agent is a small model of a training that takes what it is asked
for and saves. Either side is ended and started again at every point.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from channel_rig import FakeAgent, TokenApi
from dcp_operator.kube.channel.callers import Callers
from dcp_operator.kube.channel.certificate import Certificate
from dcp_operator.kube.channel.server import Channel
from dcp_operator.kube.client.api import CHECKPOINTS, ObjectKey, UnavailableError
from dcp_operator.kube.loop.checkpoint import CheckpointReconciler
from dcp_operator.kube.view.targeted_saves import TargetedSaves
from fake_api import checkpoints, seen
from training_model import PREFIX, Store, Training

LABELS = {"batch.kubernetes.io/job-name": "train"}
CERTIFICATE = Certificate.make(["127.0.0.1"])
IN_TIME = 10.0


@dataclass
class Operator:
    """One process of the operator: what it has seen, and its channel."""

    api: TokenApi
    reconciler: CheckpointReconciler
    saves: TargetedSaves
    port: int

    async def reconcile(self, *names: str) -> None:
        """Hear of all that there is, and look at Checkpoints once."""
        seen(self.api, self.reconciler)
        for name in names or ("save",):
            await self.reconciler(key(name))

    def agent(self, bearer: str) -> FakeAgent:
        """Return a client of the channel."""
        return FakeAgent(self.port, ssl.create_default_context(cadata=CERTIFICATE.pem), bearer)


@asynccontextmanager
async def operating(api: TokenApi) -> AsyncIterator[Operator]:
    """Run a process of the operator."""
    reconciler = checkpoints(api, now=lambda: datetime.now(UTC))
    hub = reconciler.targets.hub
    assert hub is not None
    channel = Channel(Callers(api), hub)
    async with channel.serving(CERTIFICATE, 0, "127.0.0.1") as port:
        yield Operator(api, reconciler, hub.saves, port)
        hub.close()


def key(name: str) -> ObjectKey:
    return CHECKPOINTS.key("team", name)


def put(api: TokenApi, name: str = "save", **spec: Any) -> None:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-{name}"}
    body = {"operation": "Save", "target": {"kind": "Job", "name": "train"}, **spec}
    api.add(CHECKPOINTS, {"metadata": metadata, "spec": body})


def status(api: TokenApi, name: str = "save") -> dict[str, Any]:
    found: dict[str, Any] = api.objects[CHECKPOINTS.path("team", name)].get("status", {})
    return found


def run(test: Callable[[TokenApi, str], Awaitable[None]]) -> None:
    async def go() -> None:
        async with asyncio.timeout(60):
            api = TokenApi()
            bearer = api.run_pod("rank0", labels=LABELS)
            await test(api, bearer)

    asyncio.run(go())


async def step(operator: Operator, agent: FakeAgent, training: Training, *names: str) -> None:
    """Let the operator decide, and the agent post once."""
    await operator.reconcile(*names)
    training.obey((await agent.post(training.state)).orders)
    await operator.reconcile(*names)


POINTS = ("connected", "asked", "taken", "saving", "committed", "reported", "written", "acknowledged")
AGAIN = ("connected",) * 3


async def play(api: TokenApi, bearer: str, training: Training, *points: str) -> None:
    """Go through points with one process of the operator and one connection."""
    async with operating(api) as operator:
        agent = operator.agent(bearer)
        for point in points:
            match point:
                case "saving":
                    training.begin()
                case "committed":
                    training.commit()
                case "written":
                    await operator.reconcile()
                case _:
                    await step(operator, agent, training)
        await agent.close()


@pytest.mark.adversary
@pytest.mark.parametrize("point", [*POINTS])
def test_an_operator_that_dies_knows_all_from_the_statuses(point: str) -> None:
    """Nothing is asked twice, and the outcome is written."""

    async def test(api: TokenApi, bearer: str) -> None:
        training = Training(Store(), step=3)
        put(api)
        reached = POINTS.index(point) + 1
        await play(api, bearer, training, *POINTS[:reached])
        await play(api, bearer, training, "connected", *POINTS[reached:], *AGAIN)
        found = status(api)
        assert (found["phase"], found["checkpoint"]["step"]) == ("Succeeded", 4)
        assert (training.store.saves, training.ended) == (["uid-save/"], {})

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize("point", [*POINTS])
def test_an_agent_that_dies_took_its_request_with_it_or_left_a_commit(point: str) -> None:
    """What is committed is a success, and what is not is none."""

    async def test(api: TokenApi, bearer: str) -> None:
        store = Store()
        put(api)
        await play(api, bearer, Training(store, step=3), *POINTS[: POINTS.index(point) + 1])
        asked = status(api)["phase"] != "Pending"
        training = Training.resume(store) if store.committed else Training(store, step=1)
        await play(api, bearer, training, *(AGAIN if asked else POINTS), *AGAIN)
        found = status(api)
        assert (found["phase"] == "Succeeded") == bool(store.committed), found
        assert found["phase"] == "Succeeded" or found["reason"] == "TargetEnded"
        assert len(store.saves) <= 1
        assert training.ended == {}

    run(test)


def test_two_requests_at_once_are_both_answered() -> None:
    async def test(api: TokenApi, bearer: str) -> None:
        training = Training(Store(), step=3)
        put(api)
        put(api, "other", storage={"url": f"{PREFIX}/mine"})
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            for _ in range(3):
                await step(operator, agent, training, "save", "other")
            assert training.taken.keys() == {"uid-save/", "uid-other/"}
            training.begin()
            await step(operator, agent, training, "save", "other")
            assert "saves step 4" in status(api)["conditions"][0]["message"]
            training.commit()
            for _ in range(2):
                await step(operator, agent, training, "save", "other")
            assert [status(api, name)["checkpoint"]["url"] for name in ("save", "other")] == [
                f"{PREFIX}/step-4",
                f"{PREFIX}/mine",
            ]
            assert training.ended == {}
            await agent.close()

    run(test)


@pytest.mark.adversary
def test_a_url_outside_of_the_prefixes_is_refused_by_the_training() -> None:
    async def test(api: TokenApi, bearer: str) -> None:
        training = Training(Store(), step=3)
        put(api, storage={"url": "s3://bucket/of-others"})
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            for _ in range(3):
                await step(operator, agent, training)
            training.begin()
            training.commit()
            for _ in range(2):
                await step(operator, agent, training)
            assert (status(api)["phase"], status(api)["reason"]) == ("Failed", "TargetRefused")
            assert training.store.committed == {}
            await agent.close()

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize("how", ["deleted", "being deleted", "suspended", "another run"])
def test_a_request_that_is_not_wanted_any_more_is_withdrawn(how: str) -> None:
    async def test(api: TokenApi, bearer: str) -> None:
        training = Training(Store(), step=3)
        put(api)
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            for _ in range(3):
                await step(operator, agent, training)
            assert [*training.taken] == ["uid-save/"]
            path = CHECKPOINTS.path("team", "save")
            if how == "deleted":
                del api.objects[path]
            elif how == "being deleted":
                # Somebody's finalizer keeps it.
                there = api.objects[path]
                gone = {"deletionTimestamp": "2026-11-26T21:00:00Z", "generation": 2}
                api.add(CHECKPOINTS, there | {"metadata": there["metadata"] | gone})
            else:
                changes: dict[str, Any] = {"suspend": True} if how == "suspended" else {"runId": "again"}
                there = api.objects[path]
                metadata = there["metadata"] | {"generation": 2}
                api.add(CHECKPOINTS, there | {"metadata": metadata, "spec": there["spec"] | changes})
            for _ in range(2):
                await step(operator, agent, training)
            assert [*training.taken] == (["uid-save/again/2"] if how == "another run" else [])
            await agent.close()

    run(test)


def test_a_status_that_was_not_written_asks_for_nothing() -> None:
    async def test(api: TokenApi, bearer: str) -> None:
        training = Training(Store(), step=3)
        put(api)
        async with operating(api) as operator:
            agent = operator.agent(bearer)
            await agent.post(training.state)
            away = UnavailableError("away")
            object.__setattr__(api, "refuse", lambda request: away if request.method == "PUT" else None)
            with pytest.raises(Exception, match="away"):
                await operator.reconcile()
            assert (await agent.post(training.state)).orders.requests == []
            object.__setattr__(api, "refuse", lambda _: None)
            await operator.reconcile()
            assert [each.id for each in (await agent.post(training.state)).orders.requests] == ["uid-save/"]
            await agent.close()

    run(test)
