"""What goes wrong when the API server asks about an eviction, and what somebody else may ask in its place."""

import asyncio
import json

import pytest

from channel_rig import FakeAgent, Rig, TokenApi
from dcp_contract.training import MESSAGE_LIMIT
from dcp_operator.kube.channel.admission_review import EVICTION_PATH
from dcp_operator.kube.channel.evictions import Evictions
from dcp_operator.kube.channel.server import EVICTIONS_BURST, Buckets
from dcp_operator.kube.client.api import CHECKPOINTS, PODS, SERIES, ApiError, ApiRequest, Resource, UnavailableError
from eviction_rig import NAME, ago, asked, checkpoints, held_by_a_series, is_held, put_disruption, review
from scenes import NOW


@pytest.mark.parametrize(
    ("method", "resource"),
    [("GET", PODS), ("GET", SERIES), ("GET", CHECKPOINTS), ("POST", CHECKPOINTS)],
    ids=["the pod", "the series", "the saves", "a new save"],
)
@pytest.mark.parametrize("error", [UnavailableError("away", 503), ValueError("a fault of ours")], ids=["API", "ours"])
def test_what_goes_wrong_lets_the_eviction_through(method: str, resource: Resource, error: Exception) -> None:
    async def test(rig: Rig) -> None:
        object.__setattr__(
            rig.api, "refuse", lambda each: error if (each.method, each.resource) == (method, resource) else None
        )
        found = await asked(rig, review())
        assert found["allowed"] is True
        why = (
            "the API server says: away"
            if isinstance(error, ApiError)
            else "an error of its own, which stands in its log"
        )
        assert found["warnings"] == [f"dcp-operator lets this eviction through, and nothing was saved: {why}"]

    held_by_a_series(test)


@pytest.mark.adversary
def test_who_asks_without_end_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def test(rig: Rig) -> None:
        away = UnavailableError("away", 503)
        object.__setattr__(rig.api, "refuse", lambda each: away if each.resource == PODS else None)
        for number in range(5):
            assert (await asked(rig, review(f"pod-{number}")))["allowed"] is True
        object.__setattr__(rig.api, "refuse", lambda _: None)
        put_disruption(rig.api, phase="Succeeded", completionTime=ago(1))
        for _ in range(5):
            assert (await asked(rig, review()))["allowed"] is True

    caplog.set_level("INFO")
    held_by_a_series(test)
    lines = [each.message for each in caplog.records if each.name.endswith(".evictions")]
    assert [each.partition(" is let through: ")[2] for each in lines] == [
        "away",
        f"Checkpoint {NAME} has ended: Succeeded",
    ]


class SlowApi(TokenApi):
    """An API server that takes its time."""

    async def _send(self, request: ApiRequest) -> bytes:
        await asyncio.sleep(60)
        return await super()._send(request)


def test_a_slow_api_server_lets_the_eviction_through_in_time() -> None:
    async def test(rig: Rig) -> None:
        assert rig.channel.evictions is not None
        rig.channel.evictions = Evictions(SlowApi(), seconds=0.2, now=lambda: NOW)
        began = asyncio.get_running_loop().time()
        found = await asked(rig, review())
        assert asyncio.get_running_loop().time() - began < 1.5
        assert found["allowed"] is True

    held_by_a_series(test)


class LateApi(TokenApi):
    """An API server that grows slow once the Save is there."""

    async def _send(self, request: ApiRequest) -> bytes:
        if request.path == CHECKPOINTS.path("team", NAME):
            await asyncio.sleep(60)
        return await super()._send(request)


def test_a_save_that_was_begun_holds_though_nobody_can_tell_how_far_it_is() -> None:
    async def test(rig: Rig) -> None:
        api = LateApi()
        api.objects.update(rig.api.objects)
        rig.channel.evictions = Evictions(api, now=lambda: NOW, patience=0.3, seconds=5)
        assert is_held(await asked(rig, review()))
        assert checkpoints(api) == [NAME]

    held_by_a_series(test)


def test_only_the_namespaces_that_are_served_are_looked_at() -> None:
    async def test(rig: Rig) -> None:
        rig.channel.evictions = Evictions(rig.api, namespaces=["other"], now=lambda: NOW)
        assert (await asked(rig, review()))["allowed"] is True
        rig.channel.evictions = Evictions(rig.api, namespaces=["other", "team"], now=lambda: NOW)
        assert is_held(await asked(rig, review()))

    held_by_a_series(test)


@pytest.mark.adversary
@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"", 400, "Invalid JSON"),
        (b"[" * 50_000, 400, "Invalid JSON"),
        (b'{"kind": "AdmissionReview"}', 400, "Field required"),
        (json.dumps({**review(), "kind": "TokenReview"}).encode(), 400, "is no AdmissionReview"),
        (json.dumps(review(subResource="exec")).encode(), 400, "is about no eviction of a pod"),
        (json.dumps(review(name="x" * 254)).encode(), 400, "at most 253"),
        (json.dumps(review(name="../../secrets")).encode(), 400, "should match pattern"),
        (json.dumps(review(namespace="a\nb")).encode(), 400, "should match pattern"),
        (b" " * (MESSAGE_LIMIT + 1), 413, "is larger than"),
    ],
    ids=[
        "nothing",
        "depth",
        "no request",
        "another kind",
        "another resource",
        "a long name",
        "a path",
        "a line",
        "a large body",
    ],
)
def test_what_is_no_question_is_refused_in_one_line(body: bytes, status: int, says: str) -> None:
    async def test(rig: Rig) -> None:
        async with FakeAgent(rig.port, rig.trusting(), "") as client:
            answer = await client.post_to(EVICTION_PATH, body)
        assert answer.status == status
        assert says in answer.line
        assert rig.api.writes() == []

    held_by_a_series(test)


@pytest.mark.adversary
def test_made_up_questions_bring_about_one_save_at_most_and_are_limited() -> None:
    """Nobody proves to be the API server: who can reach the port may ask."""

    async def test(rig: Rig) -> None:
        for _ in range(3):
            assert is_held(await asked(rig, review()))
        assert checkpoints(rig.api) == [NAME]
        assert rig.channel._asking.size == EVICTIONS_BURST
        rig.channel._asking = Buckets(rate=0.001, size=2)
        statuses = []
        for _ in range(4):
            async with FakeAgent(rig.port, rig.trusting(), "") as client:
                answer = await client.post_to(EVICTION_PATH, json.dumps(review("gone")).encode())
            statuses.append(answer.status)
        assert statuses == [200, 200, 429, 429]
        assert checkpoints(rig.api) == [NAME]

    held_by_a_series(test)


@pytest.mark.adversary
def test_a_checkpoint_that_only_says_to_be_of_the_series_counts_for_nothing() -> None:
    """Labels are free to write: one that let evictions through, or held them, would need its owner."""

    async def test(rig: Rig) -> None:
        put_disruption(rig.api, phase="Succeeded", completionTime=ago(1))
        path = CHECKPOINTS.path("team", NAME)
        forged = rig.api.objects.pop(path)
        metadata = {**forged["metadata"], "name": "forged", "ownerReferences": []}
        rig.api.add(CHECKPOINTS, {**forged, "metadata": metadata})
        assert is_held(await asked(rig, review()))
        assert checkpoints(rig.api) == ["forged", NAME]

    held_by_a_series(test)


@pytest.mark.adversary
def test_a_name_that_somebody_has_taken_holds_nobody() -> None:
    async def test(rig: Rig) -> None:
        rig.api.add(CHECKPOINTS, {"metadata": {"name": NAME, "namespace": "team"}, "spec": {}})
        found = await asked(rig, review())
        assert found["allowed"] is True
        assert found["warnings"]

    held_by_a_series(test)
