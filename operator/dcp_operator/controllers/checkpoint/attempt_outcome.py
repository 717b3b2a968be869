"""How an attempt ended, by what its pods show: their Reports merged into one outcome."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.operations import Operation
from dcp_contract.reasons import Reason, Weight
from dcp_contract.report import MAX_FAILED_RANKS, RankFailure, Report
from dcp_operator.api.checkpoint.operations import rules_of
from dcp_operator.api.checkpoint.reasons import REASONS
from dcp_operator.api.checkpoint.status import Failure, Phase
from dcp_operator.controllers.checkpoint.causes import (
    Cause,
    causes_of,
    failure_of,
    first_failed_ranks,
    no_report,
    rank_failure,
)
from dcp_operator.controllers.checkpoint.observed import Attempt

_GRACE: Final = timedelta(seconds=60)
"""How long the other pods of an attempt may take to report when one of its pods failed or is lost."""
_LAG: Final = timedelta(seconds=15)
"""How far the watch of pods may be behind the watch of Jobs."""
_MAX_RANKS: Final = 4096 * 64
_MAX_WARNINGS: Final = 16
_MAX_TEXT: Final = 2048
"""Failed ranks, warnings, and characters of a warning that a status may hold. An image of the user's own may report
more."""


@dataclass(frozen=True, kw_only=True)
class AttemptOutcome:
    """How an attempt ended."""

    reason: Reason
    failure: Failure | None = None
    """None for a success."""
    counted: bool = True
    """Whether it uses up one of spec.retries."""
    lost: bool = False
    """Node 0 ran and its Report is missing: a Save may have been committed."""
    failed_ranks: tuple[Failure, ...] = ()
    """The ranks that failed first."""
    failed_rank_count: int = 0
    """Failed ranks in all."""
    checkpoint: CheckpointInfo | None = None
    """What stands at the URL, as far as node 0 reported it."""
    conflict: Conflict | None = None
    """Who holds the URL, if the store refused the Save."""
    warnings: tuple[str, ...] = ()
    bytes_moved: int = 0
    seconds: float = 0.0
    """How long the bytes took to move."""

    @property
    def succeeded(self) -> bool:
        """Whether the operation is done."""
        return self.failure is None and REASONS[self.reason].phase is Phase.SUCCEEDED


def outcome_of(attempt: Attempt, operation: Operation, now: datetime) -> AttemptOutcome | None:
    """Return how the attempt ended, or None while it has not.

    A committed Save has ended, whatever its pods do now. A Load or a Verify has ended when every pod is over.

    When a pod failed or is lost, the Reports of the other pods are awaited for a minute, so that the cause is named and
    not its echo. What node 0 found out before its ranks started, such as a conflict, ends the attempt at once.
    """
    attempt = _believed(attempt, operation)
    chief = attempt.chief.report if attempt.chief is not None else None
    if chief is not None and chief.result is not None and rules_of(operation).ends_with_commit:
        return _success(chief, chief.result)
    # The pods of a suspended Job end because its queue took the admission back. The Job may be admitted again.
    if attempt.suspended or not (_is_refused(chief) or _all_told(attempt, now)):
        return None
    causes = list(causes_of(attempt, now))
    if chief is not None and chief.result is not None and all(cause.order[0] is Weight.POD for cause in causes):
        return _success(chief, chief.result)
    if chief is not None and chief.conflict is not None:
        return _conflict(attempt, chief, chief.conflict)
    ended = _failed(attempt, causes or [no_report(attempt)])
    if ended.failure is not None and ended.reason is Reason.OVERWRITE_CONFLICT:
        return replace(ended, conflict=Conflict(message=ended.failure.message))
    return ended


def _believed(attempt: Attempt, operation: Operation) -> Attempt:
    """Return the attempt without a result of another operation: the image of node 0 may report anything."""
    chief = attempt.chief
    report = chief.report if chief is not None else None
    if chief is None or report is None or report.result in {None, *operation.traits.results}:
        return attempt
    message = f"The worker image reports {report.result}, which is no result of {operation.one}; mend the image."
    failure = RankFailure(reason=Reason.ENTRYPOINT_ERROR, message=message)
    told = report.model_copy(update={"result": None, "failures": [failure, *report.failures]})
    pods = tuple(replace(pod, report=told) if pod is chief else pod for pod in attempt.pods)
    return replace(attempt, pods=pods)


def times_outcome_may_change(attempt: Attempt) -> Iterator[datetime]:
    """Yield the times at which `outcome_of` may change without any news."""
    for end in _ends(attempt):
        yield from (end, end + _GRACE)
    if attempt.finished is not None:
        yield attempt.finished + _LAG


def outcome_of_overdue(attempt: Attempt, failure: Failure) -> AttemptOutcome:
    """Return the outcome of an attempt that a timeout ends. If the attempt ran, it may have committed."""
    ran = attempt.running_since is not None
    return AttemptOutcome(reason=failure.reason, failure=failure, lost=ran and _report_lost(attempt))


def _is_refused(chief: Report | None) -> bool:
    if chief is None or chief.result is not None or chief.terminated:
        return False
    return chief.conflict is not None or any(failure.rank is None for failure in chief.failures)


def _all_told(attempt: Attempt, now: datetime) -> bool:
    if len(attempt.pods) >= attempt.nodes and all(pod.over(now) for pod in attempt.pods):
        return True
    if attempt.finished is not None and now >= attempt.finished + _LAG:
        return True
    return any(now >= end + _GRACE for end in _ends(attempt))


def _ends(attempt: Attempt) -> Iterator[datetime]:
    """Yield when those pods end whose end is soon the attempt's: the pod of node 0, failed pods, and pods given up."""
    for pod in attempt.pods:
        if pod.given_up_at is not None:
            yield pod.given_up_at
        elif pod.finished is not None and (pod.failed or pod.index == 0):
            yield pod.finished


def _success(report: Report, result: Reason) -> AttemptOutcome:
    return AttemptOutcome(
        reason=result,
        checkpoint=report.checkpoint,
        warnings=_warnings(report),
        bytes_moved=report.bytes_moved,
        seconds=report.seconds,
    )


def _conflict(attempt: Attempt, report: Report, conflict: Conflict) -> AttemptOutcome:
    failure = failure_of(attempt, Reason.OVERWRITE_CONFLICT, conflict.message)
    return AttemptOutcome(
        reason=Reason.OVERWRITE_CONFLICT,
        failure=failure,
        conflict=conflict,
        checkpoint=report.checkpoint,
        warnings=_warnings(report),
    )


def _failed(attempt: Attempt, causes: list[Cause]) -> AttemptOutcome:
    reports = [pod.report for pod in attempt.pods if pod.report is not None]
    first = min(causes, key=lambda cause: cause.order)
    failure = first.failure()
    return AttemptOutcome(
        reason=failure.reason,
        failure=failure,
        counted=first.counted,
        lost=_report_lost(attempt),
        failed_ranks=tuple(rank_failure(attempt, *each) for each in first_failed_ranks(attempt, MAX_FAILED_RANKS)),
        failed_rank_count=min(_MAX_RANKS, sum(max(each.failed_rank_count, len(each.failures)) for each in reports)),
        warnings=_warnings(*reports),
    )


def _warnings(*reports: Report) -> tuple[str, ...]:
    return tuple(warning[:_MAX_TEXT] for report in reports for warning in report.warnings)[:_MAX_WARNINGS]


def _report_lost(attempt: Attempt) -> bool:
    """Return whether node 0 may have committed without a Report.

    It can't have committed if a pod never started: ranks wait for one another before they save.
    """
    chief = attempt.chief
    return (chief is None or chief.report is None) and all(pod.started is not None for pod in attempt.pods)
