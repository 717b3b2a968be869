"""Many evictions at once, as where nodes are drained together: each is answered in time, and none passes unsaved."""

import asyncio
from typing import Any

import pytest

from channel_rig import Rig, TokenApi, run
from dcp_operator.kube.channel.admission_review import EvictionReview
from dcp_operator.kube.channel.evictions import Evictions
from dcp_operator.kube.client.api import CHECKPOINTS, PODS, SERIES, ApiRequest, Resource
from eviction_rig import put_series, train
from scenes import NOW

TRAININGS = 80


class FarApi(TokenApi):
    """An API server that takes a while for each answer."""

    async def _send(self, request: ApiRequest) -> bytes:
        await asyncio.sleep(0.1)
        return await super()._send(request)


def counting(api: TokenApi, requests: list[tuple[str, Resource | None]]) -> None:
    def note(request: ApiRequest) -> None:
        requests.append((request.method, request.resource))

    object.__setattr__(api, "refuse", note)


def put_target(api: TokenApi, name: str, target: dict[str, Any]) -> None:
    put_series(api, name, "team", **{"spec.template.spec.target": target})


def review(pod: str) -> EvictionReview:
    return EvictionReview("uid", "team", pod, dry_run=False)


def test_trainings_that_begin_to_save_keep_nobody_from_being_answered() -> None:
    """Each first eviction looks for a while what becomes of its Save."""

    async def test(_: Rig) -> None:
        api = FarApi()
        for number in range(TRAININGS):
            selector = {"selector": {"matchLabels": {"app": f"train-{number}"}}}
            put_target(api, f"run-{number}", selector)
            train(api, f"train-{number}")
            api.objects[PODS.path("team", f"train-{number}")]["metadata"]["labels"] = {"app": f"train-{number}"}
        evictions = Evictions(api, now=lambda: NOW, seconds=4, patience=3)
        answers = await asyncio.gather(*(evictions.answer(review(f"train-{number}")) for number in range(TRAININGS)))
        assert [each.warning for each in answers if not each.line] == []
        assert len(api.names(CHECKPOINTS)) == TRAININGS

    run(test)


@pytest.mark.adversary
def test_what_is_asked_at_the_same_time_is_read_once() -> None:
    """However many pods a training has, and however many series a namespace."""

    async def test(rig: Rig) -> None:
        pods = [f"train-{number}" for number in range(50)]
        for name in pods:
            train(rig.api, name)
        put_series(rig.api)
        for number in range(300):
            put_target(rig.api, f"a-{number}", {"kind": "Job", "name": f"other-{number}"})
        requests: list[tuple[str, Resource | None]] = []
        counting(rig.api, requests)
        evictions = Evictions(rig.api, now=lambda: NOW, patience=0.1, seconds=30)
        answers = await asyncio.gather(*(evictions.answer(review(each)) for each in pods))
        assert all(each.line for each in answers)
        assert requests.count(("POST", CHECKPOINTS)) == 1
        assert requests.count(("GET", PODS)) == len(pods)
        assert requests.count(("GET", SERIES)) <= 3
        assert requests.count(("GET", CHECKPOINTS)) <= 6

    run(test)


def test_a_read_that_fails_is_tried_anew_by_the_next_one() -> None:
    async def test(rig: Rig) -> None:
        train(rig.api)
        put_series(rig.api)
        evictions = Evictions(rig.api, now=lambda: NOW, patience=0.1)
        failure = ConnectionError("broken off")
        object.__setattr__(rig.api, "refuse", lambda asked: failure if asked.resource is SERIES else None)
        assert "nothing was saved" in (await evictions.answer(review("train-0"))).warning
        object.__setattr__(rig.api, "refuse", lambda _: None)
        assert (await evictions.answer(review("train-0"))).line

    run(test)
