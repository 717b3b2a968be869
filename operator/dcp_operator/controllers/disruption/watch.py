"""What follows from signs that pods of a training are about to be evicted: a save is asked for, and evictions wait.

A sign has its save once. While it lasts no other save is asked for, and after the save the pods may go: a node that
stays cordoned for hours is not held up again. Which signs have had theirs is handed in and back: a process that starts
anew finds the Saves of the last minutes, and else asks once more.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from dcp_operator.api.series.spec import Series
from dcp_operator.controllers.disruption.decide import Begin, decide, newest
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.disruption.waits import Waits


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A training at one moment."""

    pods: Sequence[EvictedPod] = ()
    """Its pods that run."""
    signals: Mapping[str, str] = field(default_factory=dict)
    """Why a pod is about to be evicted, by the uids of those that are."""
    connected: bool = False
    """Whether an agent is connected that could save."""
    late: bool = False
    """Whether an agent that is not connected may be on its way: this process has just begun to answer, or ceased to."""
    known: Sequence[Disruption] = ()
    """The Saves of the series before disruptions."""
    answered: frozenset[str] = frozenset()
    """The uids of the pods whose signs have had their save."""


@dataclass(frozen=True, kw_only=True)
class SignalOutcome:
    """What follows."""

    begin: tuple[EvictedPod, str] | None = None
    """The pod whose sign begins a disruption, and the name of its Save."""
    answered: frozenset[str] = frozenset()
    held: bool | None = False
    """Whether the pods may not be evicted; None where that stays as it is, since nobody knows who could save."""


def watch(series: Series, seen: Watched, now: datetime) -> SignalOutcome:
    """Return what follows from the signs.

    Args:
        series: The series, which has an onDisruption.
        seen: Its training.
        now: The time.
    """
    signalled = [each for each in seen.pods if each.uid in seen.signals]
    answered = {each.uid for each in signalled} & seen.answered
    begin: tuple[EvictedPod, str] | None = None
    held = True if seen.connected else None if seen.late else False
    lets_go = bool(signalled) and not _saves(series, seen.known, now)
    for pod in signalled:
        if pod.uid in answered:
            continue
        answer = decide(series, pod, seen.known, now)
        if not isinstance(answer, Begin):
            answered.add(pod.uid)
        elif held is not False:
            lets_go = False
            begin = begin or ((pod, answer.name) if held else None)
    return SignalOutcome(begin=begin, answered=frozenset(answered), held=False if lets_go else held)


def bounded(found: SignalOutcome, series: Series, seen: Watched, waits: Waits, now: float) -> SignalOutcome:
    """Return what follows where no pod waits for longer than `hold` after its sign, whatever is remembered.

    One budget is of all pods of a training: where one may wait no longer, all may go.

    Args:
        found: What follows by what is remembered.
        series: The series.
        seen: Its training.
        waits: For how long evictions of its pods were refused.
        now: The time, of a clock that never goes back.
    """
    signalled = [each for each in seen.pods if each.uid in seen.signals]
    if found.held is False or series.spec.on_disruption is None:
        for pod in signalled:
            waits.passes(pod, seen.known)
        return found
    hold = series.spec.on_disruption.time
    over = {each.uid for each in signalled if not waits.may_wait(each, hold, seen.known, now)}
    if not over:
        return found
    begin = found.begin if found.begin is not None and found.begin[0].uid not in over else None
    return SignalOutcome(begin=begin, answered=found.answered | over, held=False)


def _saves(series: Series, known: Sequence[Disruption], now: datetime) -> bool:
    """Return whether evictions wait for a save now."""
    last = newest(known)
    given = series.spec.on_disruption
    hold = given.time if given is not None else timedelta(0)
    return last is not None and last.ended is None and now < last.begun + hold
