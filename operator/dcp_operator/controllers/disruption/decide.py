"""What an eviction of a training's pod is answered: a pure function of the pod, the series, its Saves and the time.

A disruption begins with the first eviction of a pod of the training, by which a Save is created. Its creation is when
the disruption began, and its status how far it is. So every replica of the operator answers alike, and nothing lives in
memory. While that Save is not finished, all pods of the training are held, `hold` at most. Then they may go, within the
time that whoever evicts them takes to come again. A training that goes on after that is asked anew by a later eviction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dcp_operator.api.naming import disruption_name
from dcp_operator.api.series.spec import Series
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.series.runs import REMEMBERED

PASSING: Final = timedelta(minutes=5)
"""So long after the end of its Save a disruption lasts: the pods that were there when it began may be evicted.

kubectl comes again after 5 s, and cluster autoscalers after some ten. The pod whose eviction began it has REMEMBERED:
for whoever comes again less often, each try would begin a disruption, and none would be let through.
"""


@dataclass(frozen=True, kw_only=True)
class LetThrough:
    """The pod may be evicted."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Held:
    """The pod may not be evicted yet."""

    disruption: Disruption
    until: datetime
    """When it may be, whatever has become of the Save by then."""

    def line(self, series: Series) -> str:
        """Return what the evictor is told."""
        return (
            f"Checkpoint {self.disruption.name} saves {series.spec.template.spec.target} first: "
            f"{self.disruption.state}. The pod can be evicted when that has ended, at the latest at "
            f"{self.until:%Y-%m-%dT%H:%M:%SZ}."
        )


@dataclass(frozen=True, kw_only=True)
class Begin:
    """The eviction begins a disruption: its Save is to be created, and the pod is held by that."""

    name: str


Answer = LetThrough | Held | Begin


def holds(series: Series, pod: EvictedPod) -> bool:
    """Return whether evictions of a pod wait for a save of a series."""
    spec = series.spec
    target = spec.template.spec.target
    suspended = spec.suspend or spec.template.spec.suspend
    return spec.on_disruption is not None and not suspended and target is not None and target.selects(pod.labels)


def decide(series: Series, pod: EvictedPod, known: Sequence[Disruption], now: datetime) -> Answer:
    """Return what the eviction of a pod is answered.

    Args:
        series: The series whose training it is: `holds` says so.
        pod: The pod, which runs.
        known: The Saves of the series before disruptions.
        now: The time.
    """
    last = newest(known)
    if last is None:
        return Begin(name=disruption_name(series.name, series.uid, ""))
    if last.ended is None:
        return _while_saving(series, last, now)
    first = pod.uid == last.first_pod
    if pod.created <= last.begun and now < last.ended + (REMEMBERED if first else PASSING):
        return LetThrough(why=f"Checkpoint {last.name} has ended: {last.state}")
    return Begin(name=disruption_name(series.name, series.uid, last.name))


def newest(known: Sequence[Disruption]) -> Disruption | None:
    """Return the Save of the disruption that began last; None where there is none."""
    return max(known, key=lambda each: (each.begun, each.name), default=None)


def begun(series: Series, disruption: Disruption, now: datetime) -> Answer:
    """Return what the eviction is answered that has begun a disruption, or has come just after that."""
    if disruption.ended is None:
        return _while_saving(series, disruption, now)
    return LetThrough(why=f"Checkpoint {disruption.name} has ended: {disruption.state}")


def _while_saving(series: Series, disruption: Disruption, now: datetime) -> Answer:
    given = series.spec.on_disruption
    until = disruption.begun + (given.time if given is not None else timedelta(0))
    if now < until:
        return Held(disruption=disruption, until=until)
    return LetThrough(why=f"Checkpoint {disruption.name} has not ended in time: {disruption.state}")
