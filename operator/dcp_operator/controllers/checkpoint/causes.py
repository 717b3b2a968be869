"""Why an attempt failed: the one cause picked out of the echoes that it made.

A rank that fails takes the others with it: they lose a peer, or hang until a timeout. The cause is picked by class, and
within a class by time. What the cluster itself saw (a kill for memory, a preemption) explains what ranks report, so it
comes first. A rank's "lost my peer" explains nothing, so it comes last.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from heapq import nsmallest
from operator import itemgetter
from typing import Final, NamedTuple

from dcp_contract.reasons import Reason, Weight
from dcp_contract.report import RankFailure
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Failure
from dcp_operator.controllers.checkpoint.observed import Attempt, Pod
from dcp_operator.controllers.checkpoint.pods import Told

_MAX_TRACEBACK: Final = 2048
"""Characters of a traceback that a status may hold. An image of the user's own may report more."""


class Cause(NamedTuple):
    """A candidate for why an attempt failed."""

    order: tuple[Weight, float]
    """The candidate with the smallest order is the cause."""
    failure: Callable[[], Failure]
    """Makes the failure as it stands in the status. A large attempt has tens of thousands of candidates, and few are
    asked for it."""
    counted: bool = True


def causes_of(attempt: Attempt, now: datetime) -> Iterator[Cause]:
    """Yield what the cluster itself says of each pod, and the one failure that counts most among those of the ranks."""
    for pod in attempt.pods:
        if not pod.succeeded and (cause := _pod_cause(attempt, pod, now)) is not None:
            yield cause
    told = ((pod.told[0].order, pod) for pod in attempt.pods if pod.told)
    for order, pod in nsmallest(1, told, key=itemgetter(0)):
        yield Cause(order, partial(rank_failure, attempt, pod, pod.told[0].failure))
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
    if _is_told_by_ranks(attempt, pod, now):
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


def _is_told_by_ranks(attempt: Attempt, pod: Pod, now: datetime) -> bool:
    """Return whether a pod's Report says all: that is so of nearly all pods of an attempt that failed."""
    report = pod.report
    if report is None or report.terminated or not (report.failures or report.conflict or attempt.probe):
        return False
    return not (pod.oom_killed or pod.disrupted or pod.rejected or pod.lost(now) or pod.vanished)


def no_report(attempt: Attempt) -> Cause:
    """Return the cause where nothing at all was reported."""
    message = f"Job {attempt.job_name} ended, and none of its pods left a Report."
    return Cause((Weight.POD, 0), partial(failure_of, attempt, Reason.WORKER_LOST, message))


def first_failed_ranks(attempt: Attempt, ranks: int) -> list[tuple[Pod, RankFailure]]:
    """Return the failed ranks that count most, in their order.

    Only as many pods are read as ranks are asked for: the pods whose own first failure comes first.
    """
    told = [(first.order, pod) for pod in attempt.pods if (first := next(_failures_of_ranks(pod), None)) is not None]
    pods = [pod for _, pod in nsmallest(ranks, told, key=itemgetter(0))]
    found = [(each.order, pod, each.failure) for pod in pods for each in _failures_of_ranks(pod)]
    return [(pod, failure) for _, pod, failure in nsmallest(ranks, found, key=itemgetter(0))]


def _failures_of_ranks(pod: Pod) -> Iterator[Told]:
    return (each for each in pod.told if each.failure.rank is not None)


def rank_failure(attempt: Attempt, pod: Pod, failed: RankFailure) -> Failure:
    """Return the failure that a rank or a launcher reported, as it stands in the status."""
    who = f"Rank {failed.rank}" if failed.rank is not None else "The launcher"
    where = f" in pod {pod.name}" if pod.name else ""
    stage = f" ({failed.stage})" if failed.stage else ""
    message = f"{who}{where}{stage}: {failed.message or REASONS[failed.reason].doc}"
    failure = failure_of(attempt, failed.reason, message, pod=pod, exit_code=failed.exit_code)
    more = {"rank": failed.rank, "traceback": failed.traceback[-_MAX_TRACEBACK:]}
    if failed.retriable is not None:
        more["retriable"] = failed.retriable
    return failure.model_copy(update=more)


def failure_of(
    attempt: Attempt, reason: Reason, message: str, *, pod: Pod | None = None, exit_code: int | None = None
) -> Failure:
    """Return the failure as it stands in the status: its message bounded, retriable as its reason is."""
    return Failure(
        reason=reason,
        message=message.strip()[:1024],
        pod=pod.name if pod is not None else "",
        node=pod.node if pod is not None else "",
        exit_code=exit_code,
        retriable=REASONS[reason].retriable,
        attempt=attempt.attempt,
    )
