"""Job and Pod bodies as one frozen value: what the cluster shows of a Checkpoint's attempts.

`local` builds the same values from processes, so that everything after this module is one code path.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal, cast

from dcp_operator.checkpoint.naming import (
    ATTEMPT_LABEL,
    INDEX_LABEL,
    JOB_LABEL,
    PROBE_LABEL,
    RUN_LABEL,
    WORKER_CONTAINER,
)
from dcp_worker.contract import Progress, Report

Body = Mapping[str, Any]
PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

_STUCK: Final = timedelta(seconds=30)
"""A pod that is still there this long after its deletion was due is on a node that no longer answers."""
_TERMINATION_SECONDS: Final = 60
"""How long our pods have to end; what a deletion gives them where its body doesn't say otherwise."""
_PULL_ERRORS: Final = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "RegistryUnavailable", "SignatureValidationFailed",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Pod:
    """One pod of an attempt: `numProcPerNode` ranks and their launcher."""

    index: int
    name: str = ""
    phase: PodPhase = "Pending"
    node: str = ""
    unschedulable: str = ""
    """The scheduler's message while it finds no node."""
    waiting: str = ""
    """The kubelet's word for why the container does not run yet, such as ImagePullBackOff."""
    waiting_message: str = ""
    started: datetime | None = None
    finished: datetime | None = None
    exit_code: int | None = None
    exit_reason: str = ""
    """The kubelet's word for how the container ended, such as OOMKilled or StartError."""
    exit_message: str = ""
    oom_killed: bool = False
    disrupted: str = ""
    """Reason of the condition DisruptionTarget: preempted, drained, ended by its kubelet, or node lost."""
    rejected: str = ""
    """Why the kubelet ended the whole pod: Evicted, NodeShutdown, UnexpectedAdmissionError..., with its message."""
    deleting: datetime | None = None
    """When the pod was due to be gone."""
    report: Report | None = None

    @property
    def ended(self) -> bool:
        """Whether its container is done."""
        return self.phase in {"Succeeded", "Failed"}

    @property
    def failed(self) -> bool:
        """Whether it is done and did not succeed."""
        return self.phase == "Failed"

    @property
    def evicted(self) -> bool:
        """Whether its kubelet ended it to relieve the node, as the pod that used most beyond its requests."""
        return self.rejected.startswith("Evicted")

    @property
    def pull_error(self) -> bool:
        """Whether its image can't be pulled at the moment."""
        return self.waiting in _PULL_ERRORS

    @property
    def given_up_at(self) -> datetime | None:
        """When to give up a pod that was deleted and whose node never says that it stopped."""
        return self.deleting + _STUCK if self.deleting is not None and not self.ended else None

    def lost(self, now: datetime) -> bool:
        """Return whether the pod is given up."""
        return self.given_up_at is not None and now >= self.given_up_at

    def over(self, now: datetime) -> bool:
        """Return whether nothing more is to be expected of it."""
        return self.ended or self.lost(now)


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
    """Its Job is held back, mostly by its queue, or the Job controller has yet to see that it no longer is."""
    deleting: bool = False
    started: datetime | None = None
    """When the Job was created or last resumed."""
    finished: datetime | None = None
    """When the Job controller called it Complete or Failed."""
    job_failure: str = ""
    """The Job controller's reason, such as FailedIndexes or DeadlineExceeded."""
    pods: tuple[Pod, ...] = ()
    progress: Progress | None = None

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
        """Whether the Job may still have running pods."""
        return self.finished is None and not (len(self.pods) >= self.nodes and all(pod.ended for pod in self.pods))


@dataclass(frozen=True, kw_only=True)
class Observed:
    """All attempts of a Checkpoint that exist, of any run."""

    attempts: tuple[Attempt, ...] = ()
    leftover: tuple[Pod, ...] = ()
    """Pods whose Job is gone."""


def observe(jobs: Iterable[Body], pods: Iterable[Body], progress: Mapping[str, Progress] | None = None) -> Observed:
    """Return what the bodies show; `progress` is the last log line of each running Job, by its name."""
    by_job: dict[str, list[Body]] = {}
    for body in pods:
        by_job.setdefault(_labels(body).get(JOB_LABEL, ""), []).append(body)
    attempts = [
        _attempt(body, by_job.pop(body["metadata"]["name"], []), progress or {})
        for body in jobs
        if _labels(body).get(ATTEMPT_LABEL, "").isdecimal()
    ]
    return Observed(
        attempts=tuple(sorted(attempts, key=lambda each: (each.run_id, each.attempt))),
        leftover=tuple(_pod(body) for bodies in by_job.values() for body in bodies),
    )


def _attempt(body: Body, pods: list[Body], progress: Mapping[str, Progress]) -> Attempt:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels = _labels(body)
    end = _condition(status, "Failed") or _condition(status, "Complete") or {}
    resumed = _optional_time((_condition(status, "Suspended", "False") or {}).get("lastTransitionTime"))
    return Attempt(
        job_name=metadata["name"],
        attempt=int(labels[ATTEMPT_LABEL]),
        created=_created(body),
        nodes=spec.get("parallelism", 1),
        run_id=labels.get(RUN_LABEL, ""),
        probe=labels.get(PROBE_LABEL) == "true",
        # The Job controller resets startTime and the condition after it has created the pods anew: up to then all that
        # is known of the Job is of before the suspension, whatever its spec says by now.
        suspended=not end and (bool(spec.get("suspend")) or _condition(status, "Suspended") is not None),
        deleting=bool(metadata.get("deletionTimestamp")),
        started=_optional_time(status.get("startTime")),
        finished=_optional_time(end.get("lastTransitionTime")),
        job_failure=end.get("reason", "") if end.get("type") == "Failed" else "",
        pods=_latest([_pod(each) for each in pods if not (resumed is not None and _deleted_by(each, resumed))]),
        progress=progress.get(metadata["name"]),
    )


def _deleted_by(pod: Body, resumed: datetime) -> bool:
    """Return whether a pod was deleted before the Job was resumed: the Job controller deletes those it suspends.

    Their creation tells nothing: those of after the resume are created before the Job is said to be resumed.
    """
    metadata = pod["metadata"]
    due = _optional_time(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds", _TERMINATION_SECONDS))
    return due is not None and due - grace <= resumed


def _latest(pods: list[Pod]) -> tuple[Pod, ...]:
    """Return one pod per index: while the Job controller replaces one, the one that ended says more."""
    chosen: dict[int, Pod] = {}
    for pod in sorted(pods, key=lambda each: (each.report is not None, each.ended, each.started is not None)):
        chosen[pod.index] = pod
    return tuple(chosen[index] for index in sorted(chosen))


def _pod(body: Body) -> Pod:
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    states = [each for each in status.get("containerStatuses") or () if each.get("name") == WORKER_CONTAINER]
    state = (states[0].get("state") or {}) if states else {}
    running, waiting, ended = (state.get(key) or {} for key in ("running", "waiting", "terminated"))
    scheduled, disruption = _condition(status, "PodScheduled", "False"), _condition(status, "DisruptionTarget")
    if not ended and status.get("phase") == "Failed":
        ended = _failed_init(status)
    return Pod(
        index=int(_labels(body).get(INDEX_LABEL) or (metadata.get("annotations") or {}).get(INDEX_LABEL) or 0),
        name=metadata["name"],
        phase=cast("PodPhase", status.get("phase", "Pending")),
        node=spec.get("nodeName", ""),
        unschedulable=scheduled.get("message", "") if scheduled else "",
        waiting=waiting.get("reason", ""),
        waiting_message=waiting.get("message", ""),
        started=_optional_time(running.get("startedAt") or ended.get("startedAt")),
        finished=_optional_time(ended.get("finishedAt")) or _failed_at(status),
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason", ""),
        exit_message=ended.get("message", ""),
        oom_killed=ended.get("reason") == "OOMKilled",
        disrupted=disruption.get("reason", "DisruptionTarget") if disruption else "",
        rejected=": ".join(each for each in (status.get("reason"), status.get("message")) if each),
        deleting=_optional_time(metadata.get("deletionTimestamp")),
        report=Report.decode(ended.get("message", "")),
    )


def _failed_init(status: Body) -> Body:
    """Return how an init container kept the ranks from starting."""
    for each in status.get("initContainerStatuses") or ():
        ended = (each.get("state") or {}).get("terminated") or {}
        if ended.get("exitCode"):
            reason = f"init container {each['name']} ended with exit code {ended['exitCode']}"
            return {"reason": reason, "message": ended.get("message") or ended.get("reason") or ""}
    return {}


def _failed_at(status: Body) -> datetime | None:
    """Return when a pod ended that never had a container to say so: evicted, or failed by the node's loss."""
    if status.get("phase") not in {"Failed", "Succeeded"}:
        return None
    times = [each.get("lastTransitionTime") for each in status.get("conditions") or ()]
    return max((_time(each) for each in times if each), default=None)


def _condition(status: Body, kind: str, wanted: str = "True") -> Body | None:
    for condition in status.get("conditions") or ():
        if condition.get("type") == kind and condition.get("status") == wanted:
            return cast("Body", condition)
    return None


def _labels(body: Body) -> Mapping[str, str]:
    return body["metadata"].get("labels") or {}


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)


def _optional_time(text: str | None) -> datetime | None:
    """Return the time; a container that could not start "started" in 1970, which is no time."""
    return _time(text) if text and not text.startswith("1970-") else None


def _created(body: Body) -> datetime:
    return _time(body["metadata"]["creationTimestamp"])
