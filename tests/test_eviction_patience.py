"""Nobody waits for ever: whoever evicts the pods of a training, however often, gets each of them within the hold.

Evictors of several pods come again and again, each in a rhythm of its own, while saves take their time, fail or hang.
"""

from dataclasses import dataclass, replace

from hypothesis import event, given, settings
from hypothesis import strategies as st

from dcp_operator.controllers.disruption.decide import PASSING, Begin, Held, decide
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.series.runs import REMEMBERED
from hypothesis_profile import examples
from scenes import at
from series_scenes import TARGET, series

HOLD = 600
OF = series({**TARGET, "spec.onDisruption": {"hold": f"{HOLD}s"}})
SELDOM = int(PASSING.total_seconds()) - 1
ONCE_ALONE = int(REMEMBERED.total_seconds()) - 1


@dataclass
class Evictor:
    """Who evicts one pod: first at a time, then again and again."""

    pod: EvictedPod
    next: int
    period: int
    since: int | None = None
    """When it was first refused."""


def played(evictors: list[Evictor], saves: list[int]) -> None:
    """Play until all pods are gone; each save takes as long as is said, the last one for all that follow."""
    known: list[Disruption] = []
    ends: list[int] = []
    there = list(evictors)
    while there:
        asks = min(there, key=lambda each: (each.next, each.pod.name))
        now = asks.next
        seen = [replace(each, ended=at(end)) if now >= end else each for each, end in zip(known, ends, strict=True)]
        answer = decide(OF, asks.pod, seen, at(now))
        if isinstance(answer, Begin):
            assert all(each.ended is not None for each in seen), "two disruptions at a time"
            assert answer.name not in {each.name for each in known}
            known.append(Disruption(name=answer.name, begun=at(now), first_pod=asks.pod.uid))
            ends.append(now + saves[min(len(known), len(saves)) - 1])
        if isinstance(answer, Begin | Held):
            asks.since = now if asks.since is None else asks.since
            asks.next += asks.period
        else:
            there.remove(asks)
        if asks.since is not None:
            assert now <= asks.since + HOLD + asks.period, (asks, known)
    event(f"{len(known)} disruptions")


@settings(max_examples=examples(60, 2000))
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.integers(1, SELDOM)), min_size=1, max_size=4),
    st.lists(st.integers(0, 2 * HOLD), min_size=1, max_size=4),
)
def test_each_pod_goes_within_the_hold_however_many_are_evicted(
    evictors: list[tuple[int, int]], saves: list[int]
) -> None:
    pods = [EvictedPod(name=f"train-{number}", uid=f"u{number}", created=at(-9)) for number in range(len(evictors))]
    played([Evictor(pod, first, period) for pod, (first, period) in zip(pods, evictors, strict=True)], saves)


@settings(max_examples=examples(40, 500))
@given(st.integers(1, ONCE_ALONE), st.integers(0, 2 * HOLD))
def test_one_that_comes_seldom_gets_its_pod_the_second_time(period: int, save: int) -> None:
    pod = EvictedPod(name="train-0", uid="u0", created=at(-9))
    played([Evictor(pod, 0, period)], [save])
