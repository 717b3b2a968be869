"""Evictions that the API server asks about, over real TLS: what is created, what is answered, and what goes wrong."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

import pytest

from channel_rig import Rig, TokenApi
from dcp_operator.api.json_types import Body
from dcp_operator.api.naming import disruption_name
from dcp_operator.kube.client.api import CHECKPOINTS, PODS, ApiRequest
from eviction_rig import (
    LABELS,
    NAME,
    ago,
    asked,
    checkpoints,
    held_by_a_series,
    is_held,
    put_disruption,
    review,
    train,
)

DRY_OPTIONS: Final = {"object": {"deleteOptions": {"dryRun": ["All"]}}}


def finishing(api: TokenApi, **status: Any) -> Callable[[ApiRequest], None]:
    """Return what has each Save that is created end at once, as the leader does."""

    def look(request: ApiRequest) -> None:
        path = CHECKPOINTS.path("team", NAME)
        if request.method == "GET" and request.path == path and path in api.objects:
            api.objects[path] = {**api.objects[path], "status": {"runId": "", "completionTime": ago(0), **status}}

    return look


def test_the_first_eviction_begins_a_save_and_all_pods_wait_for_it() -> None:
    async def test(rig: Rig) -> None:
        train(rig.api, "train-1")
        first = await asked(rig, review())
        assert is_held(first)
        assert first["status"]["message"].startswith(f"Checkpoint {NAME} saves Job train first: Pending. The pod can")
        body = rig.api.objects[CHECKPOINTS.path("team", NAME)]
        assert body["metadata"]["annotations"]["dcp-operator.io/evicted-pod"] == "uid-train-0"
        assert body["metadata"]["ownerReferences"][0]["name"] == "run"
        for pod in ("train-0", "train-1"):
            assert is_held(await asked(rig, review(pod)))
        assert rig.api.writes() == [f"POST checkpoints/{NAME}"]

    held_by_a_series(test)


@pytest.mark.parametrize(
    ("begun", "status", "held"),
    [
        (5, {"phase": "Running"}, True),
        (595, {"phase": "Running"}, True),
        (605, {"phase": "Running"}, False),
        (5, {"phase": "Succeeded", "completionTime": ago(1)}, False),
        (5, {"phase": "Failed", "reason": "StorageDenied", "completionTime": ago(1)}, False),
    ],
    ids=["saving", "not for too long", "the hold has passed", "committed", "failed"],
)
def test_it_waits_until_the_save_has_ended_or_the_hold_has_passed(
    begun: float, status: dict[str, Any], *, held: bool
) -> None:
    async def test(rig: Rig) -> None:
        put_disruption(rig.api, begun, **status)
        assert is_held(await asked(rig, review())) is held
        assert checkpoints(rig.api) == [NAME]

    held_by_a_series(test)


@pytest.mark.parametrize(
    ("status", "held"),
    [
        ({"phase": "Failed", "reason": "TargetNotListening"}, False),
        ({"phase": "Succeeded", "reason": "Saved"}, False),
        ({"phase": "Running", "completionTime": None}, True),
    ],
    ids=["nobody listens", "nothing is new", "saving"],
)
def test_the_first_eviction_is_let_through_where_its_save_ends_at_once(status: dict[str, Any], *, held: bool) -> None:
    async def test(rig: Rig) -> None:
        if not held:
            # However slow this machine is: the end comes by itself.
            assert rig.channel.evictions is not None
            rig.channel.evictions.patience, rig.channel.evictions.seconds = 20, 30
        look = finishing(rig.api, **status)
        object.__setattr__(rig.api, "refuse", look)
        assert is_held(await asked(rig, review())) is held
        assert checkpoints(rig.api) == [NAME]

    held_by_a_series(test)


@pytest.mark.parametrize(
    ("of", "pod", "changes"),
    [
        (review("gone"), {}, {}),
        (review(namespace="elsewhere"), {}, {}),
        (review(), {"status": {"phase": "Succeeded"}}, {}),
        (review(), {"metadata": {"name": "train-0", "namespace": "team", "labels": {"app": "web"}}}, {}),
        (review(), {}, {"spec.onDisruption": None}),
        (review(), {}, {"spec.suspend": True}),
        (review(), {}, {"spec.every": "0s"}),
    ],
    ids=["no pod", "another namespace", "it has ended", "no training", "not asked for", "suspended", "a bad series"],
)
def test_other_evictions_are_let_through_without_a_trace(of: Body, pod: Body, changes: dict[str, Any]) -> None:
    async def test(rig: Rig) -> None:
        if pod:
            metadata = {"labels": LABELS, "name": "train-0", "namespace": "team", **pod.get("metadata", {})}
            rig.api.add(PODS, {"spec": {}, "status": {"phase": "Running"}, **pod, "metadata": metadata})
            rig.api.writes()
        assert await asked(rig, of) == {"uid": of["request"]["uid"], "allowed": True}
        assert [each for each in rig.api.writes() if each] == []

    held_by_a_series(test, **changes)


@pytest.mark.parametrize("dry", [{"dryRun": True}, DRY_OPTIONS], ids=["of the request", "of the eviction"])
def test_a_dry_run_creates_nothing_and_is_not_held(dry: dict[str, Any]) -> None:
    """`kubectl drain --dry-run=server` comes again for ever where it is held, since nothing would ever end."""

    async def test(rig: Rig) -> None:
        found = await asked(rig, review(**dry))
        assert found["allowed"] is True
        assert found["warnings"] == ["the eviction would wait for a save by CheckpointSeries run"]
        assert checkpoints(rig.api) == []
        put_disruption(rig.api, phase="Running")
        assert (await asked(rig, review(**dry)))["warnings"] == found["warnings"]

    held_by_a_series(test)


def test_a_replica_that_stands_by_answers_alike_and_two_of_them_begin_one_save() -> None:
    async def test(rig: Rig) -> None:
        hub, rig.channel.hub = rig.channel.hub, None
        first, second = await asyncio.gather(asked(rig, review()), asked(rig, review()))
        assert is_held(first)
        assert is_held(second)
        rig.channel.hub = hub
        assert is_held(await asked(rig, review()))
        assert checkpoints(rig.api) == [NAME]

    held_by_a_series(test)


def test_a_later_disruption_has_a_save_of_its_own() -> None:
    async def test(rig: Rig) -> None:
        put_disruption(rig.api, begun=4000, phase="Succeeded", completionTime=ago(3900))
        assert is_held(await asked(rig, review()))
        assert checkpoints(rig.api) == [NAME, disruption_name("run", "uid-run", NAME)]

    held_by_a_series(test)
