"""Which Checkpoints of a series are deleted. Their data stay: whoever removes data says so by other means."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final

from dcp_operator.api.series.spec import ConcurrencyPolicy, Series
from dcp_operator.controllers.series.actions import DeleteRun
from dcp_operator.controllers.series.runs import Runs, SeriesRun

YOUNG: Final = timedelta(minutes=1)
"""So long a Checkpoint of a training's own save stays in any case: so many of a minute are counted by those there."""


def replaced_runs(series: Series, runs: Runs, starts: str) -> Iterator[DeleteRun]:
    """Yield the active runs that make way for a newer one.

    Also for one that was created before: an operator may end between its creation and these deletions.

    Args:
        series: The series.
        runs: Its Checkpoints.
        starts: The name of the run that begins now; empty where none does.
    """
    if series.spec.concurrency_policy is not ConcurrencyPolicy.REPLACE:
        return
    scheduled = [each for each in runs.active if each.scheduled is not None and each.name != starts]
    for each in scheduled if starts else scheduled[1:]:
        newest = starts or scheduled[0].name
        yield DeleteRun(name=each.name, why=f"spec.concurrencyPolicy is Replace, and {newest} begins")


def outdated_runs(series: Series, runs: Runs, now: datetime) -> Iterator[DeleteRun]:
    """Yield the finished runs beyond the history limits.

    Where there is a retention it judges what was saved, and by its object alone it knows of it: so that object stays
    for as long as the data. What evictions were let through for stays while that counts.
    """
    limit, judged = series.spec.history_limit, series.spec.retention is not None
    for kept, finished, field in (
        (limit.successful, [each for each in runs.succeeded if not (judged and each.committed)], "successful"),
        (limit.failed, runs.failed, "failed"),
    ):
        for each in finished[kept:]:
            stays = _is_listed(each, runs) or is_young(each, now) or each.is_remembered(now)
            if each.made and not each.deleting and not stays:
                yield DeleteRun(name=each.name, why=_over(field, kept))


def is_young(run: SeriesRun, now: datetime) -> bool:
    """Return whether a Checkpoint that tells of a training's own save was created a moment ago."""
    return bool(run.reports) and run.created is not None and now < run.created + YOUNG


def _is_listed(run: SeriesRun, runs: Runs) -> bool:
    """Return whether an agent still lists the save that a Checkpoint tells of: without it another one is made."""
    return bool(run.reports) and any(each.save == run.reports for each in runs.heard)


def _over(field: str, kept: int) -> str:
    return f"spec.historyLimit.{field} is {kept}"
