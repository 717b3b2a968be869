"""What a series says of evictions: whether they wait for its saves, and if not, what is missing."""

import asyncio
from typing import Any, Final

import pytest

from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import SeriesStatus
from dcp_operator.controllers.series.actions import SeriesDecision
from dcp_operator.controllers.series.evictions import EVICTIONS_HELD, with_evictions
from dcp_operator.kube.channel.coverage import NO_CHANNEL, Coverage
from dcp_operator.kube.client.api import NAMESPACES, SERIES
from fake_api import FakeApi
from scenes import NOW, at
from series_scenes import TARGET, decided, series
from series_world import KEY, World

HELD: Final = series({**TARGET, "spec.onDisruption": {"hold": "90s"}})
LABEL: Final = {"dcp-operator.io/hold-evictions": "true"}


def told(decision: SeriesDecision) -> tuple[str, str, str] | None:
    found = [each for each in SeriesStatus.read(decision.status).conditions if each.type == EVICTIONS_HELD]
    return (found[0].status, found[0].reason, found[0].message) if found else None


def judged(
    lacking: str | None,
    *,
    of: Series | SpecError = HELD,
    status: dict[str, Any] | None = None,
    seconds: float = 0,
    budget: bool = False,
) -> SeriesDecision:
    now = at(seconds)
    parsed = of if isinstance(of, Series) else HELD
    return with_evictions(decided(of=parsed, status=status, now=now), of, lacking, now, budget=budget)


def test_a_series_says_whether_evictions_wait_and_what_is_missing() -> None:
    assert told(judged("")) == ("True", "Served", "An eviction of a pod of Job train waits for a save, 90s at most.")
    lacks = judged("the namespace has no label")
    says = "Evictions do not wait for a save: the namespace has no label."
    assert told(lacks) == ("False", "NotServed", says)
    assert [(each.type, each.message) for each in lacks.events if each.reason == "EvictionsNotHeld"] == [
        ("Warning", says)
    ]
    # It looks again by itself: nobody tells of a label.
    assert lacks.wake_at == at(60)


def test_a_budget_in_place_of_the_webhook_is_said() -> None:
    found = judged("the namespace has no label", budget=True)
    said = told(found)
    assert said is not None
    assert said[:2] == ("True", "Budget")
    assert said[2].startswith("The PodDisruptionBudget nightly-hold refuses evictions of pods of Job train")
    assert "EvictionsNotHeld" not in [each.reason for each in found.events]


def test_it_is_said_once_and_stays_until_it_changes() -> None:
    first = judged("x").status
    again = judged("x", status=first, seconds=60)
    assert (again.status, again.events) == (first, ())
    # What is not known now changes nothing.
    assert judged(None, status=first, seconds=60).status == first
    mended = judged("", status=first, seconds=120)
    assert told(mended) is not None
    assert [each.reason for each in mended.events] == []
    (held,) = (each for each in SeriesStatus.read(mended.status).conditions if each.type == EVICTIONS_HELD)
    assert held.last_transition_time == at(120)


@pytest.mark.parametrize("of", [series(TARGET), SpecError(["spec: x"])], ids=["not asked for", "can't be read"])
def test_who_does_not_ask_for_it_says_nothing(of: Series | SpecError) -> None:
    assert told(judged("", of=of)) is None
    assert told(judged("", of=of, status=judged("x").status)) is None


@pytest.mark.parametrize(
    ("unasked", "labels", "expected"),
    [
        ("", LABEL, ""),
        ("", {}, "the namespace has no label dcp-operator.io/hold-evictions=true"),
        ("", {"dcp-operator.io/hold-evictions": "false"}, "the namespace has no label"),
        ("there is no webhook", LABEL, "there is no webhook"),
        (None, LABEL, None),
    ],
)
def test_what_is_missing(unasked: str | None, labels: dict[str, str], expected: str | None) -> None:
    api = FakeApi()
    api.objects[NAMESPACES.path(None, "team")] = {"metadata": {"name": "team", "labels": labels}, "kind": "Namespace"}
    found = asyncio.run(Coverage(api, lambda: unasked).lacking("team"))
    assert found is None if expected is None else str(found).startswith(expected)


def test_an_operator_without_a_channel_or_without_the_right_to_look() -> None:
    assert asyncio.run(Coverage(FakeApi()).lacking("team")) == NO_CHANNEL
    assert asyncio.run(Coverage(FakeApi(), lambda: "").lacking("team")) is None


def test_the_condition_stands_in_the_cluster() -> None:
    world = World({**TARGET, "spec.onDisruption": {"hold": "90s"}})
    asyncio.run(world.reconciler(KEY))
    status = world.api.objects[SERIES.path(KEY.namespace, KEY.name)]["status"]
    (found,) = (each for each in status["conditions"] if each["type"] == EVICTIONS_HELD)
    assert (found["status"], NO_CHANNEL in found["message"]) == ("False", True)
    assert found["lastTransitionTime"] == f"{NOW:%Y-%m-%dT%H:%M:%SZ}"
