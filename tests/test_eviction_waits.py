"""Whatever somebody does to what is remembered in the cluster, no eviction is refused for longer than the hold."""

from collections.abc import Callable

import pytest

from channel_rig import Rig, TokenApi
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES
from eviction_rig import NAME, ago, asked, checkpoints, held_by_a_series, is_held, put_disruption, review

HOLD = 600


def deleted(api: TokenApi) -> None:
    api.objects.pop(CHECKPOINTS.path("team", NAME), None)


def made_again(api: TokenApi) -> None:
    """As whoever may create Checkpoints may: the owner that it names is free to write."""
    put_disruption(api, 0, phase="Running")


def dated_ahead(api: TokenApi) -> None:
    """The operator's clock is behind that of the API server."""
    put_disruption(api, -7200, phase="Running")


def series_made_again(api: TokenApi) -> None:
    path = SERIES.path("team", "run")
    body = api.objects[path]
    uid = f"{body['metadata']['uid']}x"
    api.objects[path] = {**body, "metadata": {**body["metadata"], "uid": uid}}
    deleted(api)


def deleted_after_an_earlier_one(api: TokenApi) -> None:
    """What has ended long ago must not count as the end of what is deleted."""
    for name in checkpoints(api):
        del api.objects[CHECKPOINTS.path("team", name)]
    put_disruption(api, 3500, phase="Succeeded", completionTime=ago(3400))


@pytest.mark.adversary
@pytest.mark.parametrize("trick", [deleted, made_again, dated_ahead, series_made_again, deleted_after_an_earlier_one])
def test_no_trick_holds_a_pod_for_longer_than_the_hold(trick: Callable[[TokenApi], None]) -> None:
    async def test(rig: Rig) -> None:
        assert rig.channel.evictions
        answers = []
        for seconds in (0, 300, HOLD - 1, HOLD, HOLD + 300, HOLD + 600):
            trick(rig.api)
            rig.channel.evictions.seconds_now = lambda at=float(seconds): at  # type: ignore[misc] # a default binds it
            answers.append(is_held(await asked(rig, review())))
        assert answers == [True, True, True, False, False, False]

    held_by_a_series(test)


def test_a_later_disruption_is_held_anew() -> None:
    """Also one that comes soon after an evictor has given up: its save has ended meanwhile."""

    async def test(rig: Rig) -> None:
        assert rig.channel.evictions
        rig.channel.evictions.seconds_now = lambda: 0.0
        assert is_held(await asked(rig, review()))
        rig.channel.evictions.seconds_now = lambda: HOLD + 300.0
        assert not is_held(await asked(rig, review())), "nothing else has happened"
        put_disruption(rig.api, 3500, phase="Succeeded", completionTime=ago(3400))
        assert is_held(await asked(rig, review()))

    held_by_a_series(test)


def test_a_dry_run_counts_for_nothing() -> None:
    async def test(rig: Rig) -> None:
        assert rig.channel.evictions
        rig.channel.evictions.seconds_now = lambda: 0.0
        assert (await asked(rig, review(dryRun=True)))["warnings"]
        rig.channel.evictions.seconds_now = lambda: HOLD + 1.0
        assert is_held(await asked(rig, review()))

    held_by_a_series(test)
