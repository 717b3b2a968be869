"""The channel to trainings, attacked: over real TLS on loopback, who is refused, with which line, and what it costs."""

import asyncio
import ssl
from typing import Any

import pytest

from channel_rig import IN_TIME, STATE, Answer, FakeAgent, Rig, put, reviewed, run, targeted, token, until
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.prefixes import is_under
from dcp_contract.training import MESSAGE_LIMIT, AgentState, EndedSave, SaveStage, TakenRequest
from dcp_operator.kube.channel.callers import caller_of
from dcp_operator.kube.channel.server import Buckets
from dcp_operator.kube.client.api import UnavailableError


async def refused(rig: Rig, agent: FakeAgent, state: AgentState | bytes = STATE, **headers: str) -> Answer:
    answer = await agent.post(state, headers)
    assert answer.headers["connection"] == "close"
    return answer


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("change", "line"),
    [
        pytest.param({"authenticated": False}, "does not know the token as a pod's", id="expired or forged"),
        pytest.param({"audiences": ["https://kubernetes.default.svc"]}, "as a pod's", id="another audience"),
        pytest.param({"user": {"username": "system:serviceaccount:team:default"}}, "as a pod's", id="of no pod"),
        pytest.param({"user": {"username": "admin", "extra": {}}}, "as a pod's", id="of a user"),
    ],
)
def test_a_token_that_is_no_pods_is_refused(change: dict[str, Any], line: str) -> None:
    async def test(rig: Rig) -> None:
        bearer = rig.api.run_pod("rank0")
        rig.api.tokens[bearer] = rig.api.tokens[bearer] | change
        answer = await refused(rig, rig.agent(bearer))
        assert answer.status == 401
        assert line in answer.line
        assert rig.hub.count == 0

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "bearer",
    [
        *("", "x", "a.b.c", token("x", "https://kubernetes.default.svc"), token("x", ["a"]), token("x", 7), "x" * 8000),
        f"{token('x')}\xff",
    ],
)
def test_what_is_not_meant_for_the_operator_is_asked_of_nobody(bearer: str, caplog: pytest.LogCaptureFixture) -> None:
    """A byte that is no letter, too: the log has no traceback of it."""

    async def test(rig: Rig) -> None:
        assert (await refused(rig, rig.agent(bearer))).status == 401
        assert rig.api.reviews == []
        assert [each.levelname for each in caplog.records] == ["WARNING"]

    run(test)


@pytest.mark.adversary
def test_a_token_of_a_pod_that_is_gone_is_worth_nothing() -> None:
    """The API server calls it good for some seconds more."""

    async def test(rig: Rig) -> None:
        bearer = rig.api.run_pod("rank0")
        rig.api.end_pod("rank0")
        answer = await refused(rig, rig.agent(bearer))
        assert (answer.status, answer.line) == (403, "pod team/rank0 with the token's uid does not run any more")
        # A pod of the same name is another one.
        rig.api.run_pod("rank0")
        rig.api.objects["/api/v1/namespaces/team/pods/rank0"]["metadata"]["uid"] = "another"
        assert (await refused(rig, rig.agent(bearer))).status == 403
        assert rig.hub.count == 0

    run(test)


@pytest.mark.adversary
def test_a_pod_that_ends_while_its_answer_is_held_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcp_operator.kube.channel.callers.ALIVE_SECONDS", 0.0)

    async def test(rig: Rig) -> None:
        agent = rig.agent(rig.api.run_pod("rank0"))
        held = asyncio.create_task(agent.post(STATE.model_copy(update={"hold_seconds": 25})))
        await until(lambda: rig.hub.count == 1)
        rig.api.end_pod("rank0")
        put(rig, targeted())
        assert (await asyncio.wait_for(held, IN_TIME)).status == 403
        assert rig.hub.count == 0

    run(test)


@pytest.mark.adversary
def test_a_report_is_believed_while_the_pod_is_there_and_not_since_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcp_operator.kube.channel.callers.ALIVE_SECONDS", 0.0)

    async def test(rig: Rig) -> None:
        taken = TakenRequest(id="uid-save/", stage=SaveStage.SAVING)
        async with rig.agent(rig.api.run_pod("rank0")) as agent:
            assert (await agent.post(STATE)).status == 200
            rig.api.end_pod("rank0")
            # To one that has nothing to say nothing is said.
            assert (await agent.post(STATE)).orders.requests == []
            put(rig, targeted())
            assert (await agent.post(STATE.model_copy(update={"requests": [taken]}))).status == 403

    run(test)


@pytest.mark.adversary
def test_a_pod_of_another_namespace_is_told_and_believed_nothing_of_this_one() -> None:
    async def test(rig: Rig) -> None:
        put(rig, targeted())
        async with rig.agent(rig.api.run_pod("rank0", "elsewhere")) as agent:
            answer = (await agent.post(STATE)).orders
            assert answer.requests == []
            info = CheckpointInfo(url="s3://bucket/run/step-7")
            ended = EndedSave(id="uid-save/", url="s3://bucket/run/step-7", checkpoint=info)
            await agent.post(STATE.model_copy(update={"ended": [ended]}))
            assert rig.hub.agents("team") == []
            assert rig.woken == []

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize(
    "url",
    ["s3://bucket/other/step-7", "s3://bucket/runner", "s3://bucket/run/../x", "gs://bucket/run/step-7", "/etc/passwd"],
)
@pytest.mark.parametrize("where", ["url", "checkpoint"])
def test_a_report_of_a_foreign_url_is_refused(url: str, where: str) -> None:
    async def test(rig: Rig) -> None:
        fields: dict[str, Any] = {"url": url} if where == "url" else {"checkpoint": CheckpointInfo(url=url)}
        state = STATE.model_copy(update={"ended": [EndedSave(id="uid-save/", **fields)]})
        answer = await refused(rig, rig.agent(rig.api.run_pod("rank0")), state)
        assert (answer.status, answer.line) == (400, f"{url} is reported, and lies under none of the agent's prefixes")
        assert rig.hub.count == 0

    run(test)


@pytest.mark.parametrize(
    ("url", "prefix", "under"),
    [
        ("s3://b/run/step-1", "s3://b/run", True),
        ("s3://b/run/step-1", "s3://b/run/", True),
        ("s3://b//run/step-1", "s3://b/run", True),
        ("file:///mnt/run/step-1", "file:///mnt/run", True),
        ("s3://b/run", "s3://b/run", True),
        ("s3://b/run2/step-1", "s3://b/run", False),
        ("/mnt/run/step-1", "/mnt/run", True),
        ("/mnt/run/step-1", "file:///mnt/run", True),
        ("/mnt/runs", "/mnt/run", False),
        ("s3://b/run/../x", "s3://b/run", False),
        ("gs://b/run/step-1", "s3://b/run", False),
    ],
)
def test_what_lies_under_a_prefix(url: str, prefix: str, under: bool) -> None:  # noqa: FBT001 - a row of the table
    assert is_under(url, prefix) is under


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("body", "headers", "status", "line"),
    [
        pytest.param(b"{", {}, 400, "Invalid JSON", id="no JSON"),
        pytest.param(b"[" * 30_000, {}, 400, "Invalid JSON", id="deep"),
        pytest.param(b"x" * (MESSAGE_LIMIT + 1), {}, 413, "larger than 65536 bytes", id="giant"),
        pytest.param(b"x", {"Content-Length": str(1 << 40)}, 413, "larger than", id="a giant that is announced"),
        pytest.param(b"x", {"Content-Encoding": "gzip"}, 415, "without encoding", id="a bomb"),
    ],
)
def test_a_body_that_is_too_much_is_refused(body: bytes, headers: dict[str, str], status: int, line: str) -> None:
    async def test(rig: Rig) -> None:
        answer = await refused(rig, rig.agent(rig.api.run_pod("rank0")), body, **headers)
        assert answer.status == status
        assert line in answer.line

    run(test)


@pytest.mark.adversary
def test_a_pod_that_posts_without_end_waits_and_no_other_does(monkeypatch: pytest.MonkeyPatch) -> None:
    # So slow that the time that the test takes does not count.
    monkeypatch.setattr("dcp_operator.kube.channel.server.PER_SECOND", 1e-3)

    async def test(rig: Rig) -> None:
        async with rig.agent(rig.api.run_pod("loud")) as loud, rig.agent(rig.api.run_pod("quiet")) as quiet:
            found = [await loud.post(STATE) for _ in range(40)]
            assert [each.status for each in found] == [200] * 20 + [429] * 20
            assert 900 < int(found[-1].headers["retry-after"]) <= 1000
            assert (await quiet.post(STATE)).status == 200

    run(test)


@pytest.mark.adversary
def test_tokens_that_are_good_for_nothing_are_limited_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcp_operator.kube.channel.server.UNKNOWN_PER_SECOND", 1e-3)

    async def test(rig: Rig) -> None:
        rig.channel._unknown.rate = 1e-6  # however long the calls take
        found = [(await rig.agent(token(f"forged {number}")).post(STATE)).status for number in range(70)]
        assert found == [401] * 50 + [429] * 20
        assert len(rig.api.reviews) == 50

    run(test)


def test_buckets_fill_with_time_and_are_bounded() -> None:
    buckets = Buckets(rate=2, size=3)
    assert [buckets.take("a", 0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 0) == 0
    assert buckets.take("a", 0.5) == 0
    for number in range(20_000):
        buckets.take(number, 1)
    assert len(buckets._left) <= 10_000


@pytest.mark.adversary
@pytest.mark.parametrize("limit", ["most", "most_per_source"])
def test_connections_beyond_the_limits_are_closed_before_the_handshake(
    limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def test(rig: Rig) -> None:
        connections = rig.channel.connections
        assert connections is not None
        kept = [rig.agent(rig.api.run_pod(f"p{number}")) for number in range(4)]
        for each in kept:
            assert (await each.post(STATE)).status == 200
        for _ in range(3):
            with pytest.raises((ConnectionError, ssl.SSLError, asyncio.IncompleteReadError)):
                await rig.agent("x").post(STATE)
        assert connections.refused == 3
        beyond = {"most": "4 in all", "most_per_source": "4 of 127.0.0.1"}[limit]
        assert caplog.messages == [f"channel: a connection is closed beyond {beyond}; 1 were so far"]
        # One that goes makes room for another.
        await kept[0].close()
        await until(lambda: connections.count == 3)
        assert (await kept[0].post(STATE)).status == 200
        for each in kept:
            await each.close()

    run(test, **{limit: 4})


@pytest.mark.adversary
@pytest.mark.parametrize("sent", [b"", b"POST /v1/training HTTP/1.1\r\nHost: x\r\n"], ids=["nothing", "half a request"])
@pytest.mark.parametrize("tls", [True, False], ids=["TLS", "no handshake"])
def test_a_connection_on_which_nothing_comes_is_closed(sent: bytes, tls: bool) -> None:  # noqa: FBT001 - parametrized
    async def test(rig: Rig) -> None:
        context = rig.trusting() if tls else None
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=context)
        writer.write(sent)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), IN_TIME)
        writer.close()

    run(test, grace=0.3)


@pytest.mark.adversary
def test_a_body_that_trickles_in_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dcp_operator.kube.channel.server.BODY_SECONDS", 0.3)

    async def test(rig: Rig) -> None:
        answer = await refused(rig, rig.agent(rig.api.run_pod("rank0")), b"{", **{"Content-Length": "1000"})
        assert answer.status == 408

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"\x00\x01garbage\r\n\r\n", 400, id="no HTTP"),
        pytest.param(b"POST /v1/training HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 20_000, 400, id="a long header"),
        pytest.param(b"GET /v1/training HTTP/1.1\r\nHost: x\r\n\r\n", 405, id="another method"),
        pytest.param(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n", 404, id="another path"),
    ],
)
def test_what_is_no_call_leaves_nothing_in_the_log(raw: bytes, status: int, caplog: pytest.LogCaptureFixture) -> None:
    async def test(rig: Rig) -> None:
        assert (await rig.agent("x").send(raw)).status == status
        assert caplog.records == []

    run(test)


def test_a_fault_of_the_operators_own_is_logged_and_ends_nothing_else(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(rig: Rig) -> None:
        bearer = rig.api.run_pod("rank0")
        with monkeypatch.context() as broken:
            broken.setattr(rig.hub, "hear", None)
            answer = await rig.agent(bearer).post(STATE)
            assert (answer.status, answer.line) == (500, "the operator failed at this call; its log says why")
        assert "TypeError" in caplog.text
        assert (await rig.agent(bearer).post(STATE)).status == 200

    run(test)


@pytest.mark.adversary
def test_an_api_server_that_is_away_is_no_refusal_of_the_token() -> None:
    async def test(rig: Rig) -> None:
        bearer = rig.api.run_pod("rank0")
        object.__setattr__(rig.api, "refuse", lambda _: UnavailableError("away"))
        answer = await rig.agent(bearer).post(STATE)
        assert (answer.status, answer.headers["retry-after"]) == (503, "5")
        object.__setattr__(rig.api, "refuse", lambda _: None)
        assert (await rig.agent(bearer).post(STATE)).status == 200

    run(test)


@pytest.mark.adversary
@pytest.mark.parametrize("field", ["authentication.kubernetes.io/pod-name", "authentication.kubernetes.io/pod-uid"])
def test_a_token_is_bound_to_one_pod(field: str) -> None:
    review = reviewed("team", "rank0", "u")
    assert caller_of(review) is not None
    for values in ([], [""], ["a", "b"]):
        assert (
            caller_of(review | {"user": {**review["user"], "extra": {**review["user"]["extra"], field: values}}})
            is None
        )
