"""How far running attempts are, read off the tail of rank 0's log. No decision depends on it."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from dcp_contract.progress import Progress
from dcp_operator.api.naming import WORKER_CONTAINER
from dcp_operator.controllers.checkpoint.jobs import Job
from dcp_operator.controllers.checkpoint.pods import Pod
from dcp_operator.kube.client.api import ObjectKey
from dcp_operator.kube.client.reads import Reads

INTERVAL: Final = 5.0
"""Seconds between two reads of one attempt's log, at least. Rank 0 writes no more often."""
FORBIDDEN: Final = 300.0
"""Seconds between two tries where the operator may not read logs. The permission may be granted while it runs."""
READS_PER_SECOND: Final = 20.0
"""Reads of all attempts together. With more than a hundred attempts running, each log is read less often."""


@dataclass
class _Followed:
    progress: Progress | None = None
    timer: asyncio.TimerHandle | None = None
    reading: asyncio.Task[None] | None = None
    forbidden: bool = False


@dataclass
class ProgressReader:
    """Follows the log of every running attempt.

    Args:
        cluster: Where the logs are.
        changed: Called with the Checkpoint whose progress is news.
    """

    cluster: Reads
    changed: Callable[[ObjectKey], None]
    _followed: dict[tuple[ObjectKey, str], _Followed] = field(default_factory=dict, init=False)

    @property
    def following(self) -> set[ObjectKey]:
        """The Checkpoints whose logs are looked at."""
        return {key for key, _ in self._followed}

    def of(self, key: ObjectKey, jobs: Iterable[Job], pods: Iterable[Pod]) -> dict[str, Progress]:
        """Return the last known progress of the Checkpoint's running Jobs by name, and follow exactly those."""
        running = _chiefs(jobs, pods)
        for known in [each for each in self._followed if each[0] == key and each[1] not in running]:
            self._forget(known)
        found: dict[str, Progress] = {}
        for job, pod in running.items():
            followed = self._followed.get((key, job))
            if followed is None:
                followed = self._followed[key, job] = _Followed()
                self._again(key, job, pod, followed)
            elif followed.progress is not None:
                found[job] = followed.progress
        return found

    def forget(self, key: ObjectKey) -> None:
        """Stop following a Checkpoint that is gone."""
        for known in [each for each in self._followed if each[0] == key]:
            self._forget(known)

    def stop(self) -> None:
        """Stop following anything."""
        for known in list(self._followed):
            self._forget(known)

    def _forget(self, known: tuple[ObjectKey, str]) -> None:
        followed = self._followed.pop(known)
        if followed.timer is not None:
            followed.timer.cancel()
        if followed.reading is not None:
            followed.reading.cancel()

    def _again(self, key: ObjectKey, job: str, pod: str, followed: _Followed) -> None:
        wait = max(INTERVAL, len(self._followed) / READS_PER_SECOND)
        if followed.forbidden:
            wait = max(wait, FORBIDDEN)
        followed.timer = asyncio.get_running_loop().call_later(wait, self._read_soon, key, job, pod, followed)

    def _read_soon(self, key: ObjectKey, job: str, pod: str, followed: _Followed) -> None:
        followed.reading = asyncio.create_task(self._read(key, job, pod, followed))

    async def _read(self, key: ObjectKey, job: str, pod: str, followed: _Followed) -> None:
        tail = await self.cluster.log_tail(key.namespace, pod, WORKER_CONTAINER)
        followed.forbidden = tail is None
        progress = last_progress(tail or "")
        if progress is not None and progress != followed.progress:
            followed.progress = progress
            self.changed(key)
        self._again(key, job, pod, followed)


def last_progress(log: str) -> Progress | None:
    """Return the last progress line of a log; every other line is the workload's own."""
    return next(filter(None, map(Progress.of_line, reversed(log.splitlines()))), None)


def _chiefs(jobs: Iterable[Job], pods: Iterable[Pod]) -> dict[str, str]:
    """Return the name of node 0's pod of every Job where it runs."""
    unfinished = {job.name for job in jobs if not job.ended}
    running = (pod for pod in pods if pod.index == 0 and pod.started is not None and not pod.ended)
    return {pod.job: pod.name for pod in running if pod.job in unfinished}
