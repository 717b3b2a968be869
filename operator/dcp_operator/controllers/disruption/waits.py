"""For how long a process has refused the evictions of a pod: a bound that needs no object, and no clock but its own.

What is remembered in the cluster may be taken away, and begun anew: a Checkpoint before a disruption is deleted, or
made by somebody else with the series as its owner; the series is deleted and comes again; a clock is wrong. None of
that may keep a node from being drained for longer than `hold`. So each process counts for itself, too: for the
evictions that it answers, and for those that a budget refuses.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from dcp_operator.controllers.disruption.decide import PASSING, newest
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.series.runs import REMEMBERED

MOST_PODS: Final = 10_000


@dataclass
class _Wait:
    since: float
    ended: datetime | None = None
    """The latest end of a save that was known while the pod waited."""


@dataclass
class Waits:
    """Since when the evictions of which pods are refused, in seconds of a clock that never goes back."""

    _waits: OrderedDict[str, _Wait] = field(default_factory=OrderedDict, init=False)

    def passes(self, pod: EvictedPod, known: Sequence[Disruption]) -> None:
        """Note that a pod may go where a save has ended for which it waited: what comes later is another disruption.

        An end that was known while it waited is none: the Save that came after it may have been deleted.
        """
        wait, last = self._waits.get(pod.uid), newest(known)
        if wait is None or last is None or last.ended is None or last.begun < pod.created:
            return
        if wait.ended is None or last.ended > wait.ended:
            del self._waits[pod.uid]

    def may_wait(self, pod: EvictedPod, hold: timedelta, known: Sequence[Disruption], now: float) -> bool:
        """Return whether a pod may be held once more.

        Args:
            pod: The pod.
            hold: For how long it may be.
            known: The Saves before disruptions.
            now: The time. Long after the hold it is another disruption.
        """
        wait = self._waits.get(pod.uid)
        if wait is None or now >= wait.since + max(hold + PASSING, REMEMBERED).total_seconds():
            self._waits[pod.uid] = wait = _Wait(now)
            self._waits.move_to_end(pod.uid)
            if len(self._waits) > MOST_PODS:
                self._waits.popitem(last=False)
        ends = [each for each in (wait.ended, *(each.ended for each in known)) if each is not None]
        wait.ended = max(ends, default=None)
        return now < wait.since + hold.total_seconds()
