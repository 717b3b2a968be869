"""How an attempt ended: its pods' Reports merged, the one cause picked out of the echoes it made.

A rank that fails takes the others with it: they lose a peer, or hang until a timeout. The cause is picked by class, and
within a class by time. What the cluster itself saw (a kill for memory, a preemption) explains what ranks report, so it
comes first; a rank's "lost my peer" explains nothing, so it comes last.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from heapq import nsmallest
from operator import itemgetter
from typing import Final, NamedTuple

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason, Weight
from dcp_contract.report import MAX_FAILED_RANKS, RankFailure, Report
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Failure, Phase
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.pods import Told

_GRACE: Final = timedelta(seconds=60)
"""How long the other pods of one that failed or is lost may take to report."""
_LAG: Final = timedelta(seconds=15)
"""How far the watch of pods may be behind the watch of Jobs."""
_MAX_RANKS: Final = 4096 * 64
_MAX_WARNINGS: Final = 16
_MAX_TEXT: Final = 2048
"""What a status may hold; an image of the user's own may report more."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How an attempt ended."""

    reason: Reason
    failure: Failure | None = None
    """None for a success."""
    counted: bool = True
    """Whether it uses up one of spec.retries."""
    lost: bool = False
    """Node 0 ran and its Report is missing: a Save may have been committed all the same."""
    failed_ranks: tuple[Failure, ...] = ()
    failed_rank_count: int = 0
    checkpoint: CheckpointInfo | None = None
    conflict: Conflict | None = None
    warnings: tuple[str, ...] = ()
    bytes_moved: int = 0
    seconds: float = 0.0

    @property
    def succeeded(self) -> bool:
        """Whether the operation is done."""
        return self.failure is None and REASONS[self.reason].phase is Phase.SUCCEEDED


class Cause(NamedTuple):
    """A candidate for why an attempt failed."""

    order: tuple[Weight, float]
    """The first one is the cause."""
    failure: Callable[[], Failure]
    """Makes the failure as it stands in the status: of tens of thousands in a large attempt it is wanted of a few."""
    counted: bool = True


def outcome(attempt: Attempt, operation: Operation, now: datetime) -> Outcome | None:
    """Return how the attempt ended, or None while it has not.

    A committed Save has ended, whatever its pods do now. A Load or a Verify has ended when every pod is over. A failure
    or the loss of a pod waits a minute for the Reports of the other pods, so that the cause is named and not its echo;
    not so what node 0 found out before its ranks started, such as a conflict.
    """
    attempt = _believed(attempt, operation)
    chief = attempt.chief.report if attempt.chief is not None else None
    if chief is not None and chief.result is not None and rules_of(operation).ends_with_commit:
        return _success(chief, chief.result)
    # A suspended Job's pods end because its queue took the admission back: the Job goes on when it is admitted again.
    if attempt.suspended or not (_refused(chief) or _over(attempt, now)):
        return None
    causes = list(_causes(attempt, now))
    if chief is not None and chief.result is not None and all(cause.order[0] is Weight.POD for cause in causes):
        return _success(chief, chief.result)
    if chief is not None and chief.conflict is not None:
        return _conflict(attempt, chief, chief.conflict)
    ended = _failed(attempt, causes or [_no_report(attempt)])
    if ended.failure is not None and ended.reason is Reason.OVERWRITE_CONFLICT:
        return replace(ended, conflict=Conflict(message=ended.failure.message))
    return ended


def _believed(attempt: Attempt, operation: Operation) -> Attempt:
    """Return the attempt without the result that node 0 reports of another operation: an image may report anything."""
    chief = attempt.chief
    report = chief.report if chief is not None else None
    if chief is None or report is None or report.result in {None, operation.traits.result}:
        return attempt
    message = f"The worker image reports {report.result}, which is no result of a {operation}; mend the image."
    failure = RankFailure(reason=Reason.ENTRYPOINT_ERROR, message=message)
    told = report.model_copy(update={"result": None, "failures": [failure, *report.failures]})
    pods = tuple(replace(pod, report=told) if pod is chief else pod for pod in attempt.pods)
    return replace(attempt, pods=pods)


def wakes(attempt: Attempt) -> Iterator[datetime]:
    """Yield the times at which `outcome` may change without any news."""
    for end in _ends(attempt):
        yield from (end, end + _GRACE)
    if attempt.finished is not None:
        yield attempt.finished + _LAG


def overdue(attempt: Attempt, failure: Failure) -> Outcome:
    """Return the outcome of an attempt that a timeout ends; if it ran, it may have committed all the same."""
    ran = attempt.running_since is not None
    return Outcome(reason=failure.reason, failure=failure, lost=ran and _report_lost(attempt))


def _refused(chief: Report | None) -> bool:
    if chief is None or chief.result is not None or chief.terminated:
        return False
    return chief.conflict is not None or any(failure.rank is None for failure in chief.failures)


def _over(attempt: Attempt, now: datetime) -> bool:
    if len(attempt.pods) >= attempt.nodes and all(pod.over(now) for pod in attempt.pods):
        return True
    if attempt.finished is not None and now >= attempt.finished + _LAG:
        return True
    return any(now >= end + _GRACE for end in _ends(attempt))


def _ends(attempt: Attempt) -> Iterator[datetime]:
    """Yield when the pods end that the others do not outlive for long: node 0's, failed ones, and those given up."""
    for pod in attempt.pods:
        if pod.given_up_at is not None:
            yield pod.given_up_at
        elif pod.finished is not None and (pod.failed or pod.index == 0):
            yield pod.finished


def _success(report: Report, result: Reason) -> Outcome:
    return Outcome(
        reason=result,
        checkpoint=report.checkpoint,
        warnings=_warnings(report),
        bytes_moved=report.bytes_moved,
        seconds=report.seconds,
    )


def _conflict(attempt: Attempt, report: Report, conflict: Conflict) -> Outcome:
    failure = failure_of(attempt, Reason.OVERWRITE_CONFLICT, conflict.message)
    return Outcome(
        reason=Reason.OVERWRITE_CONFLICT,
        failure=failure,
        conflict=conflict,
        checkpoint=report.checkpoint,
        warnings=_warnings(report),
    )


def _failed(attempt: Attempt, causes: list[Cause]) -> Outcome:
    reports = [pod.report for pod in attempt.pods if pod.report is not None]
    first = min(causes, key=lambda cause: cause.order)
    failure = first.failure()
    return Outcome(
        reason=failure.reason,
        failure=failure,
        counted=first.counted,
        lost=_report_lost(attempt),
        failed_ranks=tuple(_rank_failure(attempt, *each) for each in _first_failed(attempt, MAX_FAILED_RANKS)),
        failed_rank_count=min(_MAX_RANKS, sum(max(each.failed_rank_count, len(each.failures)) for each in reports)),
        warnings=_warnings(*reports),
    )


def _warnings(*reports: Report) -> tuple[str, ...]:
    return tuple(warning[:_MAX_TEXT] for report in reports for warning in report.warnings)[:_MAX_WARNINGS]


def _report_lost(attempt: Attempt) -> bool:
    """Return whether node 0 may have committed and could not say so; ranks wait for one another before they save."""
    chief = attempt.chief
    return (chief is None or chief.report is None) and all(pod.started is not None for pod in attempt.pods)


def _first_failed(attempt: Attempt, ranks: int) -> list[tuple[Pod, RankFailure]]:
    """Return the failed ranks that count most, in their order.

    They are in as many pods at most as they are themselves: those whose own first one comes first.
    """
    told = [(first.order, pod) for pod in attempt.pods if (first := next(_ranked(pod), None)) is not None]
    pods = [pod for _, pod in nsmallest(ranks, told, key=itemgetter(0))]
    found = [(each.order, pod, each.failure) for pod in pods for each in _ranked(pod)]
    return [(pod, failure) for _, pod, failure in nsmallest(ranks, found, key=itemgetter(0))]


def _ranked(pod: Pod) -> Iterator[Told]:
    return (each for each in pod.told if each.failure.rank is not None)


def _causes(attempt: Attempt, now: datetime) -> Iterator[Cause]:
    """Yield what the cluster itself says of each pod, and what counts most of what its ranks say."""
    for pod in attempt.pods:
        if not pod.succeeded and (cause := _pod_cause(attempt, pod, now)) is not None:
            yield cause
    told = ((pod.told[0].order, pod) for pod in attempt.pods if pod.told)
    for order, pod in nsmallest(1, told, key=itemgetter(0)):
        yield Cause(order, partial(_rank_failure, attempt, pod, pod.told[0].failure))
    if attempt.job_failure == "DeadlineExceeded":
        message = f"Job {attempt.job_name} ran into its activeDeadlineSeconds before its ranks reported."
        yield Cause((Weight.DEADLINE, 0), partial(failure_of, attempt, Reason.DEADLINE_EXCEEDED, message))
    elif attempt.finished is not None and attempt.job_failure:
        present = {pod.index for pod in attempt.pods}
        for index in [each for each in range(attempt.nodes) if each not in present][:1]:
            message = f"The pod of node {index} was deleted before its Report was read."
            yield Cause((Weight.POD, 0), partial(failure_of, attempt, Reason.WORKER_LOST, message))


def _pod_cause(attempt: Attempt, pod: Pod, now: datetime) -> Cause | None:
    """Return what the cluster itself says about a pod's end; None where only its ranks can tell."""
    if _told_by_ranks(attempt, pod, now):
        return None
    where = f"Pod {pod.name or pod.index}" + (f" on node {pod.node}" if pod.node else "")
    weight, reason, counted = Weight.POD, Reason.WORKER_LOST, True
    if pod.oom_killed:
        weight, reason = Weight.MEMORY, Reason.OUT_OF_MEMORY
        message = f"{where} was killed at its memory limit."
    elif pod.disrupted and not pod.evicted:
        counted = False
        message = f"{where} was disrupted ({pod.disrupted}), which is not counted as a failed attempt. {pod.rejected}"
    elif pod.rejected:
        message = f"{where} was ended by its kubelet: {pod.rejected}"
    elif pod.lost(now):
        message = f"{where} was deleted and its node does not say that it stopped: the node is probably lost."
    elif pod.report is not None and pod.report.terminated:
        message = f"{where} was told to stop (SIGTERM), but not by the operator: someone deleted the pod."
    elif pod.vanished:
        message = f"{where} ran, and its node can't say any more how it ended: the node was probably restarted."
    elif pod.failed and pod.report is None and pod.started is None:
        weight, reason = Weight.NAMED, Reason.ENTRYPOINT_ERROR
        message = f"{where}: the container could not start ({pod.exit_reason or 'no reason'}). {pod.exit_message}"
    elif pod.failed and (pod.report is None or not (pod.report.failures or pod.report.conflict or attempt.probe)):
        message = f"{where} ended with exit code {pod.exit_code} and did not report why."
    else:
        return None
    time = pod.finished.timestamp() if pod.finished is not None else 0.0
    failure = partial(failure_of, attempt, reason, message, pod=pod, exit_code=pod.exit_code)
    return Cause((weight, time), failure, counted)


def _told_by_ranks(attempt: Attempt, pod: Pod, now: datetime) -> bool:
    """Return whether there is nothing to add to a pod's Report, as of nearly all pods of an attempt that failed."""
    report = pod.report
    if report is None or report.terminated or not (report.failures or report.conflict or attempt.probe):
        return False
    return not (pod.oom_killed or pod.disrupted or pod.rejected or pod.lost(now) or pod.vanished)


def _rank_failure(attempt: Attempt, pod: Pod, failed: RankFailure) -> Failure:
    who = f"Rank {failed.rank}" if failed.rank is not None else "The launcher"
    where = f" in pod {pod.name}" if pod.name else ""
    stage = f" ({failed.stage})" if failed.stage else ""
    message = f"{who}{where}{stage}: {failed.message or REASONS[failed.reason].doc}"
    failure = failure_of(attempt, failed.reason, message, pod=pod, exit_code=failed.exit_code)
    more = {"rank": failed.rank, "traceback": failed.traceback[-_MAX_TEXT:]}
    if failed.retriable is not None:
        more["retriable"] = failed.retriable
    return failure.model_copy(update=more)


def _no_report(attempt: Attempt) -> Cause:
    message = f"Job {attempt.job_name} ended, and none of its pods left a Report."
    return Cause((Weight.POD, 0), partial(failure_of, attempt, Reason.WORKER_LOST, message))


def failure_of(
    attempt: Attempt, reason: Reason, message: str, *, pod: Pod | None = None, exit_code: int | None = None
) -> Failure:
    """Return the failure as it stands in the status: bounded, with the pod's place and its reason's retriability."""
    return Failure(
        reason=reason,
        message=message.strip()[:1024],
        pod=pod.name if pod is not None else "",
        node=pod.node if pod is not None else "",
        exit_code=exit_code,
        retriable=REASONS[reason].retriable,
        attempt=attempt.attempt,
    )
