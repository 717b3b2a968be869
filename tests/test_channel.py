"""The channel to trainings over real TLS on loopback: who is answered, what, and when."""

import asyncio
import ssl
from typing import Any

import pytest

from channel_rig import (
    IN_TIME,
    STATE,
    FakeAgent,
    Rig,
    TokenApi,
    put,
    run,
    targeted,
    until,
)
from dcp_contract.training import MAX_REQUESTS, EndedSave, SaveStage, TakenRequest
from dcp_operator.kube.channel.callers import Callers
from dcp_operator.kube.channel.certificate import Certificate
from dcp_operator.kube.client.api import RefusedError

ASKED = TakenRequest(id="uid-save/", stage=SaveStage.WAITING)


def test_an_agent_is_known_by_its_pod_and_told_its_grace() -> None:
    async def test(rig: Rig) -> None:
        async with rig.agent(rig.api.run_pod("rank0", terminationGracePeriodSeconds=45)) as agent:
            orders = (await agent.post(STATE)).orders
            assert (orders.requests, orders.acknowledged, orders.grace_seconds) == ([], [], 45)
            (known,) = rig.hub.agents("team")
            assert (known.pod, known.pod_uid, known.group) == ("rank0", "uid-rank0", "g1")
            # On the same connection, by the same review.
            assert (await agent.post(STATE)).status == 200
            assert len(rig.api.reviews) == 1

    run(test)


def test_an_agent_without_news_costs_a_review_of_its_token_and_no_look_at_its_pod(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pod that is gone is refused by the review."""
    for name in ("ALIVE_SECONDS", "KNOWN_SECONDS"):
        monkeypatch.setattr(f"dcp_operator.kube.channel.callers.{name}", 0.0)

    async def test(rig: Rig) -> None:
        bearer = rig.api.run_pod("rank0")
        asked: list[str] = []
        object.__setattr__(rig.api, "refuse", lambda request: asked.append(request.path))
        async with rig.agent(bearer) as agent:
            for _ in range(3):
                assert (await agent.post(STATE)).status == 200
            assert len(rig.api.reviews) == 3
            assert asked.count("/api/v1/namespaces/team/pods/rank0") == 1
            rig.api.end_pod("rank0")
            rig.api.tokens[bearer] = {"authenticated": False}
            assert (await agent.post(STATE)).status == 401

    run(test)


def test_a_held_answer_comes_with_the_request_and_a_request_once_written() -> None:
    async def test(rig: Rig) -> None:
        async with rig.agent(rig.api.run_pod("rank0")) as agent:
            held = asyncio.create_task(agent.post(STATE.model_copy(update={"hold_seconds": 25})))
            await until(lambda: rig.hub.count == 1)
            # A Save that has yet to choose is asked of nobody, nor is one of another process group.
            put(rig, targeted(group=""))
            put(rig, targeted("other", "g2"))
            assert not held.done()
            put(rig, targeted(version=2))
            (request,) = (await asyncio.wait_for(held, IN_TIME)).orders.requests
            assert (request.id, request.url, request.origin.name) == ("uid-save/", None, "save")

    run(test)


def test_what_is_withdrawn_or_written_is_told_at_once() -> None:
    async def test(rig: Rig) -> None:
        async with rig.agent(rig.api.run_pod("rank0")) as agent:
            put(rig, targeted())
            waits = STATE.model_copy(update={"hold_seconds": 25, "requests": [ASKED]})
            held = asyncio.create_task(agent.post(waits))
            await until(lambda: rig.hub.count == 1)
            put(rig, targeted(version=2, phase="Suspended") | {"spec": targeted()["spec"] | {"suspend": True}})
            assert (await asyncio.wait_for(held, IN_TIME)).orders.requests == []
            done = STATE.model_copy(update={"hold_seconds": 25, "ended": [EndedSave(id="uid-save/")]})
            put(rig, targeted(version=3))
            held = asyncio.create_task(agent.post(done))
            await until(lambda: rig.hub.agents("team")[0].state.ended)
            assert not held.done()
            put(rig, targeted(version=4, phase="Succeeded", completionTime="2026-11-26T20:01:00Z"))
            orders = (await asyncio.wait_for(held, IN_TIME)).orders
            assert (orders.requests, orders.acknowledged) == ([], ["uid-save/"])

    run(test)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(None, id="the Checkpoint is gone"),
        pytest.param({"spec": {"operation": "Save", "runId": "again"}}, id="another run is asked for"),
        pytest.param({"status": {"phase": "Failed", "completionTime": "2026-11-26T20:01:00Z"}}, id="it has failed"),
    ],
)
def test_an_outcome_that_nobody_waits_for_is_acknowledged(body: dict[str, Any] | None) -> None:
    async def test(rig: Rig) -> None:
        async with rig.agent(rig.api.run_pod("rank0")) as agent:
            if body is not None:
                put(rig, targeted() | body)
            own = EndedSave(id="r1", requested=False)
            ended = STATE.model_copy(update={"ended": [EndedSave(id="uid-save/"), own], "hold_seconds": 25})
            assert (await agent.post(ended)).orders.acknowledged == ["uid-save/", "r1"]

    run(test)


@pytest.mark.adversary
def test_of_more_requests_than_a_message_has_the_newest_wait() -> None:
    """However many Saves somebody asks of one training."""

    async def test(rig: Rig) -> None:
        async with rig.agent(rig.api.run_pod("rank0")) as agent:
            names = [f"save-{number:02}" for number in range(20)]
            for name in names:
                put(rig, targeted(name))
            asked = [each.id for each in (await agent.post(STATE)).orders.requests]
            assert asked == [f"uid-{name}/" for name in names[:MAX_REQUESTS]]
            put(rig, targeted(names[0], version=2, phase="Succeeded", completionTime="2026-11-26T20:01:00Z"))
            asked = [each.id for each in (await agent.post(STATE)).orders.requests]
            assert asked == [f"uid-{name}/" for name in names[1 : MAX_REQUESTS + 1]]

    run(test)


def test_a_second_post_of_a_pod_ends_the_first() -> None:
    async def test(rig: Rig) -> None:
        bearer = rig.api.run_pod("rank0")
        async with rig.agent(bearer) as first, rig.agent(bearer) as second:
            held = asyncio.create_task(first.post(STATE.model_copy(update={"hold_seconds": 25})))
            await until(lambda: rig.hub.count == 1)
            assert (await second.post(STATE)).status == 200
            assert (await asyncio.wait_for(held, IN_TIME)).status == 200

    run(test)


def test_what_an_agent_says_wakes_those_whom_it_concerns() -> None:
    async def test(rig: Rig) -> None:
        async with rig.agent(rig.api.run_pod("rank0")) as agent:
            for name, group in (("mine", "g1"), ("unasked", ""), ("other", "g2")):
                put(rig, targeted(name, group))
            await agent.post(STATE)
            assert sorted(each.name for each in rig.woken) == ["mine", "other", "unasked"]
            rig.woken.clear()
            await agent.post(STATE.model_copy(update={"step": 8}))
            assert rig.woken == []
            await agent.post(STATE.model_copy(update={"requests": [ASKED.model_copy(update={"step": 9})]}))
            assert [each.name for each in rig.woken] == ["mine"]
            rig.woken.clear()
            await agent.post(STATE.model_copy(update={"ends": True}))
            assert sorted(each.name for each in rig.woken) == ["mine", "unasked"]

    run(test)


def test_a_broken_connection_ends_its_poll() -> None:
    async def test(rig: Rig) -> None:
        agent = rig.agent(rig.api.run_pod("rank0"))
        held = asyncio.create_task(agent.post(STATE.model_copy(update={"hold_seconds": 25})))
        await until(lambda: rig.hub.count == 1)
        connections = rig.channel.connections
        assert connections is not None
        assert connections.count == 1
        held.cancel()
        await asyncio.gather(held, return_exceptions=True)
        await agent.close()
        await until(lambda: connections.count == 0)

    run(test)


def test_a_standby_sends_the_agent_elsewhere() -> None:
    async def test(rig: Rig) -> None:
        rig.channel.hub = None
        answer = await rig.agent(rig.api.run_pod("rank0")).post(STATE)
        assert (answer.status, answer.headers["connection"], answer.headers["retry-after"]) == (503, "close", "1")
        assert "stands by" in answer.line
        assert rig.api.reviews == []

    run(test)


def test_who_may_not_review_tokens_has_no_channel() -> None:
    api = TokenApi()
    assert asyncio.run(Callers(api).allowed())
    object.__setattr__(api, "refuse", lambda _: RefusedError("forbidden", 403))
    assert not asyncio.run(Callers(api).allowed())


def test_an_agent_that_has_the_certificates_of_all_replicas_trusts_each() -> None:
    async def test(rig: Rig) -> None:
        others = "".join(Certificate.make(["127.0.0.1"]).pem for _ in range(4))
        for known in (rig.certificate.pem + others, others + rig.certificate.pem):
            async with FakeAgent(rig.port, ssl.create_default_context(cadata=known), rig.api.run_pod("rank0")) as agent:
                assert (await agent.post(STATE)).status == 200
        async with FakeAgent(rig.port, ssl.create_default_context(cadata=others), "x") as agent:
            with pytest.raises(ssl.SSLCertVerificationError):
                await agent.post(STATE)

    run(test)


def test_a_certificate_is_for_its_names_alone_and_trusted_by_itself_alone() -> None:
    async def test(rig: Rig) -> None:
        stranger = ssl.create_default_context()
        with pytest.raises(ssl.SSLCertVerificationError):
            await FakeAgent(rig.port, stranger, "x").post(STATE)
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", rig.port, ssl=rig.trusting(), server_hostname="other.svc")

    run(test)
