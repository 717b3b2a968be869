"""One Pod body as a small frozen value: how the worker container stands, whatever else runs beside it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal, NamedTuple, cast

from dcp_contract.reasons import Reason, Weight
from dcp_contract.report import RankFailure, Report
from dcp_operator.api.bodies import condition, optional_time, shared
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Phase
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import INDEX_LABEL, JOB_LABEL
from dcp_operator.controllers.checkpoint.worker_container import (
    LOST_SIGHT_OF,
    Waiting,
    WorkerStates,
    last_change,
    start_time,
    what_it_waits_for,
    worker_states,
)

PodPhase = Literal["Pending", "Running", "Succeeded", "Failed", "Unknown"]

_STUCK: Final = timedelta(seconds=30)
"""A pod that is still there this long after its deletion was due is on a node that no longer answers."""
_PULL_ERRORS: Final = {
    "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
    "RegistryUnavailable", "SignatureValidationFailed",
}  # fmt: skip
_TERMINATION_SECONDS: Final = 60
"""Seconds that a worker pod has to end after its deletion, where its body does not say how many."""
_TERMINAL: Final = {"Succeeded", "Failed"}
_LATE: Final = timedelta(seconds=10)
"""A pod that was seen to run is taken to have ended at most this long before it is seen to have ended."""


class Told(NamedTuple):
    """A failure that a rank or a launcher reported, and its order among the failures of the attempt."""

    order: tuple[Weight, float]
    failure: RankFailure


@dataclass(frozen=True, kw_only=True, slots=True)
class Pod:
    """One pod of an attempt: `numProcPerNode` ranks and their launcher."""

    index: int
    name: str = ""
    phase: PodPhase = "Pending"
    """The pod's own phase, which tells of all its containers together."""
    node: str = ""
    unschedulable: str = ""
    """The scheduler's message while it finds no node."""
    waiting: str = ""
    """The kubelet's word for why the container does not run yet, such as ImagePullBackOff."""
    waiting_message: str = ""
    waiting_container: str = ""
    """Which other container it is that waits, such as `init container fetch`; empty for the worker container."""
    held_up: bool = True
    """Whether the ranks can't start before that container does."""
    started: datetime | None = None
    finished: datetime | None = None
    exit_code: int | None = None
    """Exit code of the worker container; None while it runs, and if the kubelet never said how it ended."""
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
    job: str = ""
    """Name of the Job that its label names."""
    created: datetime | None = None
    deleted: datetime | None = None
    """When its deletion was asked for."""
    told: tuple[Told, ...] = field(default=(), init=False, repr=False, compare=False)
    """The failures of its Report, the one that counts most first. An image of the user's own may report them in any
    order."""

    def __post_init__(self) -> None:
        """Order the failures once per pod, not once per reconcile: there may be thousands of both."""
        failures = self.report.failures if self.report is not None else ()
        told = (Told((Weight.of(each.reason), each.time), each) for each in map(_of_a_failure, failures))
        object.__setattr__(self, "told", tuple(sorted(told, key=lambda each: each.order)))

    @property
    def ended(self) -> bool:
        """Whether its worker container is done."""
        return self.exit_code is not None or self.phase in _TERMINAL

    @property
    def failed(self) -> bool:
        """Whether its worker container is done and did not succeed."""
        return self.phase == "Failed" if self.exit_code is None else self.exit_code != 0

    @property
    def succeeded(self) -> bool:
        """Whether its worker container is done and succeeded, whatever became of the pod's other containers."""
        return self.ended and not self.failed

    @property
    def lingers(self) -> bool:
        """Whether the pod runs on although its worker container is done: another container keeps it running."""
        return self.ended and self.phase not in _TERMINAL

    @property
    def vanished(self) -> bool:
        """Whether the worker container ran, and the kubelet can't find it any more."""
        return self.exit_reason == LOST_SIGHT_OF

    @property
    def evicted(self) -> bool:
        """Whether the kubelet ended the pod to relieve its node: it used most beyond its requests."""
        return self.rejected.startswith("Evicted")

    @property
    def pull_error(self) -> bool:
        """Whether its image can't be pulled at the moment."""
        return self.held_up and self.waiting in _PULL_ERRORS

    @property
    def given_up_at(self) -> datetime | None:
        """When to give up a pod that was deleted and whose node never says that it stopped."""
        return self.deleting + _STUCK if self.deleting is not None and not self.ended else None

    def lost(self, now: datetime) -> bool:
        """Return whether the pod is given up."""
        return self.given_up_at is not None and now >= self.given_up_at

    def over(self, now: datetime) -> bool:
        """Return whether nothing more is to be expected of its ranks."""
        return self.ended or self.lost(now)


def pod_of(body: ReadBody, seen: datetime | None = None, before: Pod | None = None) -> Pod:
    """Return what a Pod body shows.

    Deadlines count from the times in a Pod body, which are by the clock of the pod's node. That clock may be wrong. So
    each time is brought between the pod's creation, by the API server's clock, and its first sight here.

    Args:
        body: The Pod.
        seen: The time of this sight, by the operator's clock; None where it is not known.
        before: What the pod showed before, whose times stand.
    """
    metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
    labels, annotations = metadata.get("labels") or {}, metadata.get("annotations") or {}
    worker = worker_states(status)
    ended = worker.ended
    scheduled, disruption = condition(status, "PodScheduled", "False"), condition(status, "DisruptionTarget")
    waits = what_it_waits_for(status, worker.waiting) if not (worker.running or ended) else Waiting()
    created = optional_time(metadata.get("creationTimestamp"))
    started, finished = _start_and_end(worker, status, created, seen, before)
    deleting = optional_time(metadata.get("deletionTimestamp"))
    grace = timedelta(seconds=metadata.get("deletionGracePeriodSeconds", _TERMINATION_SECONDS))
    return Pod(
        index=_index(labels.get(INDEX_LABEL) or annotations.get(INDEX_LABEL) or "0"),
        name=metadata["name"],
        created=created,
        phase=cast("PodPhase", status.get("phase", "Pending")),
        node=shared(spec.get("nodeName", "")),
        unschedulable=scheduled.get("message", "") if scheduled else "",
        waiting=waits.reason,
        waiting_message=waits.message,
        waiting_container=waits.container,
        held_up=waits.holds_up,
        started=started,
        finished=finished,
        exit_code=ended.get("exitCode"),
        exit_reason=ended.get("reason", ""),
        exit_message=ended.get("message", ""),
        oom_killed=ended.get("reason") == "OOMKilled",
        disrupted=disruption.get("reason", "DisruptionTarget") if disruption else "",
        rejected=": ".join(each for each in (status.get("reason"), status.get("message")) if each),
        deleting=deleting,
        report=Report.decode(ended.get("message", "")) if ended.get("message") else None,
        job=shared(labels.get(JOB_LABEL, "")),
        deleted=deleting - grace if deleting is not None else None,
    )


def _start_and_end(
    worker: WorkerStates, status: ReadBody, created: datetime | None, seen: datetime | None, before: Pod | None
) -> tuple[datetime | None, datetime | None]:
    """Return when the worker container started and ended, by the node's clock, brought within what is known."""
    ended = worker.ended
    over = bool(ended) or status.get("phase") in _TERMINAL
    started = _within(start_time(worker.running or ended, status), created, seen)
    finished = optional_time(ended.get("finishedAt")) or (last_change(status, started) if over else None)
    ran = seen is not None and before is not None and not before.ended
    finished = _within(finished, seen - _LATE if seen is not None and ran else started or created, seen)
    if before is not None:
        started = (started and before.started) or started
        finished = (finished and before.finished) or finished
    return started, finished


def _of_a_failure(failure: RankFailure) -> RankFailure:
    """Return a failure whose reason is one that failures have. Any other reason goes in front of the message."""
    if REASONS[failure.reason].phase in {Phase.FAILED, Phase.CONFLICT}:
        return failure
    return failure.model_copy(update={"reason": Reason.RANK_FAILED, "message": f"{failure.reason}: {failure.message}"})


def _index(text: str) -> int:
    """Return the index of a pod; -1, which no node has, for a text that the Job controller has not written."""
    return int(text) if text.isdecimal() else -1


def _within(time: datetime | None, first: datetime | None, last: datetime | None) -> datetime | None:
    if time is None:
        return None
    time = min(time, last) if last is not None else time
    return max(time, first) if first is not None else time
