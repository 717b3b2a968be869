"""The attempts of a Checkpoint: what the watches show of them, and what no watch delivers.

Three things are asked of the API server beside the watches. The pods of a Job that has ended are read once, while some
of them are not known to have ended: the watch of Pods may be behind the watch of Jobs. The log of rank 0 tells how far
a running attempt is; no decision depends on it. And the Job controller says in events only why it can't create pods: a
quota is named there.
"""

import asyncio
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from dcp_contract.progress import Progress
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import WORKER_CONTAINER
from dcp_operator.controllers.checkpoint.jobs import Job
from dcp_operator.controllers.checkpoint.observed import Attempt, Observed, observe
from dcp_operator.controllers.checkpoint.pods import Pod
from dcp_operator.controllers.checkpoint.waiting_pods import PODS_DUE
from dcp_operator.kube.client.api import PODS, ApiError, ObjectKey
from dcp_operator.kube.client.reads import Reads
from dcp_operator.kube.kinds.checkpoint import jobs_and_pods
from dcp_operator.kube.view.cache import ClusterView

logger = logging.getLogger(__name__)

INTERVAL: Final = 5.0
"""Seconds between two reads of one attempt's log, at least. Rank 0 writes no more often."""
FORBIDDEN: Final = 300.0
"""Seconds between two tries where the operator may not read logs. The permission may be granted while it runs."""
READS_PER_SECOND: Final = 20.0
"""Reads of all attempts together. With more than a hundred attempts running, each log is read less often."""
_AGAIN: Final = timedelta(seconds=25)
"""For how long the words of an event are kept. The attempt is reconciled every thirty seconds."""
_REMEMBERED_EVENTS: Final = 1000
_POD: Final = re.compile(r'pods "[^"]*"')
"""Each try of the Job controller names another pod. A status that held the name would change with each try."""
_LONGEST: Final = 512
_REMEMBERED_JOBS: Final = 10_000


@dataclass
class AttemptReader:
    """Gathers what is known of a Checkpoint's attempts.

    Args:
        cluster: Where to read.
        view: What the watches have shown.
        progress: Follows the logs.
    """

    cluster: Reads
    view: ClusterView
    progress: "ProgressReader"

    def __post_init__(self) -> None:
        """Begin with nothing."""
        self._pod_creation = PodCreation(self.cluster)
        self._unconfirmed = UnconfirmedJobs()

    async def of(self, key: ObjectKey, body: ReadBody, now: datetime) -> Observed:
        """Return the attempts of a Checkpoint, as they stand now."""
        jobs, pods = await self._confirmed(key, body)
        observed = observe(jobs, pods, self.progress.of(key, jobs, pods))
        return await self._pod_creation.explained(key.namespace, observed, now)

    async def _confirmed(self, key: ObjectKey, body: ReadBody) -> tuple[list[Job], list[Pod]]:
        """Return Jobs and pods; read the pods of a Job that has ended while some of them are not known to have, once.

        A Report that has yet to arrive must not be taken for lost.
        """
        owned, uid = self.view.cache.owned, body["metadata"]["uid"]
        jobs, pods = jobs_and_pods(owned.of(key, uid))
        if "completionTime" in (body.get("status") or {}):
            return jobs, pods
        unconfirmed = self._unconfirmed.among(jobs, pods)
        for job in unconfirmed:
            for pod in await self.cluster.pods_of(key.namespace, job.name):
                self.view.ingest(PODS, pod)
            self._unconfirmed.confirm(job)
        return jobs_and_pods(owned.of(key, uid)) if unconfirmed else (jobs, pods)


@dataclass
class UnconfirmedJobs:
    """Tells each Job that has ended before its pods are known to have, until its pods were read past the watch."""

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
        if len(self._confirmed) > _REMEMBERED_JOBS:
            self._confirmed.popitem(last=False)


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


@dataclass
class PodCreation:
    """Reads the events of Jobs whose pods are overdue.

    Args:
        cluster: Where to read.
    """

    cluster: Reads
    _told: OrderedDict[str, tuple[datetime, str]] = field(default_factory=OrderedDict, init=False)

    async def explained(self, namespace: str, observed: Observed, now: datetime) -> Observed:
        """Return what is observed, with the Job controller's own words about pods that are not there."""
        attempts = [
            replace(each, uncreated=await self._words(namespace, each, now)) if _overdue(each, now) else each
            for each in observed.attempts
        ]
        return replace(observed, attempts=tuple(attempts))

    async def _words(self, namespace: str, attempt: Attempt, now: datetime) -> str:
        known = self._told.get(attempt.uid)
        if known is not None and now < known[0] + _AGAIN:
            return known[1]
        try:
            said = await self.cluster.last_event(namespace, attempt.uid, "FailedCreate")
        except ApiError as error:
            logger.debug("no events of Job %s/%s: %s", namespace, attempt.job_name, error)
            said = ""
        said = _POD.sub("pods", said)[:_LONGEST]
        self._told[attempt.uid] = (now, said)
        if len(self._told) > _REMEMBERED_EVENTS:
            self._told.popitem(last=False)
        return said


def _overdue(attempt: Attempt, now: datetime) -> bool:
    waits = attempt.active and not attempt.suspended and not attempt.deleting and len(attempt.pods) < attempt.nodes
    return waits and attempt.started is not None and now >= attempt.started + PODS_DUE
