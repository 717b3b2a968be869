"""Jobs that have ended while some of their pods are not known to have: the watch of Pods may be behind that of Jobs."""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from dcp_operator.controllers.checkpoint.jobs import Job
from dcp_operator.controllers.checkpoint.pods import Pod

_REMEMBERED: Final = 10_000


@dataclass
class UnconfirmedJobs:
    """Tells each such Job until its pods were read past the watch."""

    _confirmed: OrderedDict[str, None] = field(default_factory=OrderedDict, init=False)

    def among(self, jobs: Iterable[Job], pods: Iterable[Pod]) -> list[Job]:
        """Return the Jobs whose pods have to be read."""
        due = [job for job in jobs if job.ended and job.uid not in self._confirmed]
        if not due:
            return []
        ended = Counter(pod.job for pod in pods if pod.ended)
        return [job for job in due if ended[job.name] < job.nodes]

    def confirm(self, job: Job) -> None:
        """Note that the pods of a Job were read."""
        self._confirmed[job.uid] = None
        if len(self._confirmed) > _REMEMBERED:
            self._confirmed.popitem(last=False)
