"""Job and Pod bodies as one frozen value: what the cluster shows of a Checkpoint's attempts.

`local` builds the same values from processes, so that everything after this module is one code path.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

from dcp_contract.progress import Progress
from dcp_operator.api.json_types import ReadBody
from dcp_operator.controllers.checkpoint.jobs import Job, job_of
from dcp_operator.controllers.checkpoint.pods import Pod, pod_of

__all__ = ["Attempt", "Observed", "Pod", "observe"]


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One Indexed Job and its pods."""

    job_name: str
    attempt: int
    created: datetime
    nodes: int = 1
    run_id: str = ""
    probe: bool = False
    suspended: bool = False
    """Its Job is suspended, mostly by its queue, or the Job controller has yet to see that the Job is not any more."""
    deleting: bool = False
    started: datetime | None = None
    """When the Job was created or last resumed."""
    finished: datetime | None = None
    """When the Job controller called it Complete or Failed."""
    job_failure: str = ""
    """The Job controller's reason, such as FailedIndexes or DeadlineExceeded."""
    pods: tuple[Pod, ...] = ()
    progress: Progress | None = None
    uid: str = ""
    """uid of the Job."""
    generation: int | None = None
    """Generation of the Checkpoint when the Job was made; None if an earlier version of the operator made it."""
    digest: str = ""
    """Digest of the free-form fields that the Job was made of; empty if an earlier version of the operator made it."""
    uncreated: str = ""
    """Why the Job controller can't create pods, in its own words."""

    @property
    def running_since(self) -> datetime | None:
        """When its last pod started; None until every pod has."""
        starts = [pod.started for pod in self.pods if pod.started is not None]
        return max(starts) if len(starts) >= self.nodes else None

    @property
    def chief(self) -> Pod | None:
        """The pod of node 0, whose Report has the checkpoint."""
        return self.pod(0)

    def pod(self, index: int) -> Pod | None:
        """Return the pod of a node."""
        return next((pod for pod in self.pods if pod.index == index), None)

    @property
    def active(self) -> bool:
        """Whether a worker container may still run."""
        return self.finished is None and not (len(self.pods) >= self.nodes and all(pod.ended for pod in self.pods))

    @property
    def lingers(self) -> bool:
        """Whether its ranks have ended, and another container keeps a pod of it running."""
        return self.finished is None and not self.active and any(pod.lingers for pod in self.pods)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All attempts of a Checkpoint that exist, of any run."""

    attempts: tuple[Attempt, ...] = ()
    leftover: tuple[Pod, ...] = ()
    """Pods whose Job is gone."""

    def still_running(self, now: datetime) -> str | None:
        """Return the name of a Job or a pod that may still do something; None if all has stopped."""
        jobs = (f"Job {each.job_name}" for each in self.attempts if each.active)
        pods = (f"pod {each.name}" for each in self.leftover if each.started is not None and not each.over(now))
        return next(chain(jobs, pods), None)


def observe(
    jobs: Iterable[ReadBody | Job], pods: Iterable[ReadBody | Pod], progress: Mapping[str, Progress] | None = None
) -> Observed:
    """Return what Jobs and their pods show together.

    Args:
        jobs: The Jobs, read already or not.
        pods: Their pods, read already or not.
        progress: The last log line of each running Job, by its name.
    """
    by_job: dict[str, list[Pod]] = {}
    for each in pods:
        pod = each if isinstance(each, Pod) else pod_of(each)
        by_job.setdefault(pod.job, []).append(pod)
    attempts = [
        _attempt(job, job.attempt, by_job.pop(job.name, []), (progress or {}).get(job.name))
        for job in (each if isinstance(each, Job) else job_of(each) for each in jobs)
        if job.attempt is not None
    ]
    return Observed(
        attempts=tuple(sorted(attempts, key=lambda each: (each.run_id, each.attempt))),
        leftover=tuple(pod for pods in by_job.values() for pod in pods),
    )


def _attempt(job: Job, number: int, pods: list[Pod], progress: Progress | None) -> Attempt:
    return Attempt(
        job_name=job.name,
        attempt=number,
        created=job.created,
        nodes=job.nodes,
        run_id=job.run_id,
        probe=job.probe,
        suspended=job.suspended,
        deleting=job.deleting,
        started=job.started,
        finished=job.finished,
        job_failure=job.failure,
        pods=_latest([each for each in pods if 0 <= each.index < job.nodes and not _before(each, job.resumed)]),
        progress=progress,
        uid=job.uid,
        generation=job.generation,
        digest=job.digest,
    )


def _before(pod: Pod, resumed: datetime | None) -> bool:
    """Return whether a pod was deleted before the Job was resumed: suspending a Job deletes its pods.

    Creation time does not help: the Job controller creates the new pods before it sets the condition `Suspended=False`.
    """
    return resumed is not None and pod.deleted is not None and pod.deleted <= resumed


def _latest(pods: list[Pod]) -> tuple[Pod, ...]:
    """Return one pod per index. While the Job controller replaces a pod, the old pod, which has ended, says more."""
    chosen: dict[int, Pod] = {}
    for pod in pods:
        other = chosen.get(pod.index)
        if other is None or _says(pod) > _says(other):
            chosen[pod.index] = pod
    return tuple(chosen[index] for index in sorted(chosen))


def _says(pod: Pod) -> tuple[bool, bool, bool]:
    return pod.report is not None, pod.ended, pod.started is not None
