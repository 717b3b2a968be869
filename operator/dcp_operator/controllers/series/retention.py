"""Which checkpoints of a series are removed, how far the removals are, and why the others stay.

A checkpoint is removed by a Checkpoint of its own, whose operation is Delete and which names the save: a worker pod
does it, with the credentials of the series. What a Delete has come to is read off it. Once it has succeeded and the
status tells of it, the object of the run goes, then the Delete.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from dcp_contract.reasons import Reason
from dcp_contract.retention import Retained, Verdict, judge
from dcp_operator.api.naming import removal_name
from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import (
    MOST_LISTED,
    KeptCheckpoint,
    RemovedCheckpoint,
    RetentionStatus,
    UnremovedCheckpoint,
)
from dcp_operator.api.storage_url import below, normal
from dcp_operator.controllers.series.actions import CreateRemoval, DeleteRun
from dcp_operator.controllers.series.runs import FOR_EVER, REMEMBERED, Runs, SeriesRun
from dcp_operator.controllers.target.reported import SAVE_ID

MOST_REMOVALS: Final = 4
"""Removals of a series under way at the same time."""
AGAIN: Final = timedelta(hours=1)
"""After this time a removal that failed is tried again, by another Delete."""
_MOMENT: Final = timedelta(seconds=1)
_WAITS: Final = "its removal waits"


@dataclass(frozen=True, kw_only=True)
class Removals:
    """What a retention comes to."""

    status: RetentionStatus | None = None
    create: tuple[CreateRemoval, ...] = ()
    delete: tuple[DeleteRun, ...] = ()
    """Objects that are not needed any more. They are deleted after the status tells of what was removed."""
    wake_at: datetime | None = None
    """When a verdict may be another without any news."""


def retain(series: Series, runs: Runs, before: RetentionStatus | None, now: datetime) -> Removals:
    """Return what to remove of the committed checkpoints of a series, and what is known of the others.

    Args:
        series: The series. While it is suspended nothing more is removed.
        runs: Its Checkpoints, and who reads what they have saved.
        before: What the status says of earlier removals.
        now: The time.
    """
    if series.spec.retention is None and before is None and not runs.removals:
        return Removals()
    known = before or RetentionStatus()
    failed = [each for each in runs.removals if each.finished and not _is_done(each)]
    listed = {each.name for each in known.removed}
    news = [each for each in _removed(runs) if each.name not in listed]
    judged = _judged(series, runs, now)
    times = [*judged.times, *(each.ended + AGAIN for each in failed if each.ended is not None)]
    return Removals(
        status=RetentionStatus(
            kept=tuple(judged.kept[:MOST_LISTED]),
            kept_count=len(judged.kept),
            removed=(*news, *known.removed)[:MOST_LISTED],
            removed_count=known.removed_count + len(news),
            unremoved=tuple(map(_unremoved, failed[:MOST_LISTED])),
            keep_off=tuple(each[:253] for each in runs.keepers[:MOST_LISTED]),
        ),
        create=tuple(judged.create),
        delete=(*judged.delete, *_done(runs), *_tried_again(failed, now)),
        wake_at=min((each for each in times if each > now), default=None),
    )


@dataclass
class _Judged:
    kept: list[KeptCheckpoint] = field(default_factory=list)
    """What stays, the newest first."""
    create: list[CreateRemoval] = field(default_factory=list)
    """What is removed next, the oldest first."""
    delete: list[DeleteRun] = field(default_factory=list)
    """Deletes that have not begun, of what is to stay after all; and runs of which others have the checkpoint, too."""
    times: list[datetime] = field(default_factory=list)
    """When to judge again."""


def _judged(series: Series, runs: Runs, now: datetime) -> _Judged:
    """Judge what stands, and what a Delete is about to remove: a pin or a reader may have come since."""
    rules, found = series.spec.retention, _Judged()
    waiting = {each.condemns: each for each in runs.removals if not (each.begun or each.finished or each.deleting)}
    if rules is None:
        found.delete += [DeleteRun(name=each.name, why="spec.retention is left out") for each in waiting.values()]
        return found
    # Of two runs that saved to one URL the later one tells what stands there.
    begun = [each for each in runs.removals if each.condemns not in waiting]
    standing = {each.saved[0]: each for each in reversed(runs.standing_but_for(begun)) if not each.adopted}
    room = MOST_REMOVALS - sum(not each.finished for each in runs.removals)
    for verdict in reversed(judge((_retained(each, runs) for each in standing.values()), rules, now)):
        run = standing[normal(verdict.checkpoint.url)]
        why, removal = _why_it_stays(series, run, verdict, now), waiting.get(run.saved)
        if not why and series.spec.suspend:
            why = f"{_WAITS}: spec.suspend is true"
        if why and removal is not None:
            found.delete.append(DeleteRun(name=removal.name, why=f"{run.url} stays: {why}"))
        if not why and (other := runs.others.get(run.saved)):
            found.delete.append(DeleteRun(name=run.name, why=f"Checkpoint {other} has saved {run.url}, too, and stays"))
        elif why or (removal is None and len(found.create) >= room):
            found.kept.insert(0, KeptCheckpoint(name=run.name, step=run.step, reasons=why[:253] or _WAITS))
        elif removal is None:
            found.create.append(_removal(series, run))
    gone = [each for place, each in waiting.items() if place not in {run.saved for run in standing.values()}]
    found.delete += [DeleteRun(name=each.name, why="what it removes is none of the series any more") for each in gone]
    within = [each.committed_at + rules.within + _MOMENT for each in standing.values() if rules.within]
    passing = [each.ended + REMEMBERED for each in standing.values() if each.is_remembered(now) and each.ended]
    in_use = [each.in_use_until for each in standing.values() if each.in_use_until not in {None, FOR_EVER}]
    found.times += [*within, *passing, *(each for each in in_use if each is not None)]
    return found


def _retained(run: SeriesRun, runs: Runs) -> Retained:
    return Retained(
        url=run.url,
        save_id=run.save_id,
        step=run.step,
        time=run.committed_at,
        pinned=run.pinned,
        in_use_until=run.in_use_until,
        readers=runs.readers.get(run.url, ()),
    )


def _why_it_stays(series: Series, run: SeriesRun, verdict: Verdict, now: datetime) -> str:
    """Return why a checkpoint stays; empty where it is to be removed."""
    if verdict.kept:
        return "; ".join(verdict.reasons)
    if not SAVE_ID.fullmatch(run.save_id):
        return "nobody knows which save stands there"
    if not run.made:
        return "no schedule has begun it"
    if run.is_remembered(now):
        return "an eviction has just waited for it"
    if not series.saves and not below(series.spec.storage.url if series.spec.storage else "", run.url):
        return "it lies outside of spec.storage.url"
    return f"store {series.store.name} is ReadOnly" if series.store is not None and series.store.read_only else ""


def _removal(series: Series, run: SeriesRun) -> CreateRemoval:
    own = bool(series.storage) and below(str(series.storage.get("url", "")), run.url)
    storage = {**(series.storage if own else run.storage), "url": run.url}
    name = removal_name(series.name, run.uid, run.save_id)
    return CreateRemoval(name=name, run=run.name, url=run.url, save_id=run.save_id, storage=storage)


def _removed(runs: Runs) -> Iterator[RemovedCheckpoint]:
    """Yield what the Deletes that have succeeded removed, the latest first."""
    done = [each for each in runs.removals if each.succeeded and each.ended is not None]
    for removal in sorted(done, key=lambda each: (each.ended, each.name), reverse=True):
        for run in _runs_of(removal, runs):
            yield RemovedCheckpoint(name=run.name, url=run.url, step=run.step, time=removal.ended or FOR_EVER)


def _runs_of(removal: SeriesRun, runs: Runs) -> list[SeriesRun]:
    """Return the runs whose checkpoint a Delete was to remove: of a training two requests may have shared a save."""
    return [each for each in runs.succeeded if each.committed and each.saved == removal.condemns]


def _is_done(removal: SeriesRun) -> bool:
    """Return whether nothing is left of what a Delete was to remove, also since another save was put in its place."""
    return removal.succeeded or (removal.finished and removal.reason == Reason.SAVE_MISMATCH)


def _done(runs: Runs) -> Iterator[DeleteRun]:
    """Yield the objects of what was removed, each run before its Delete: without that the run would be judged anew."""
    for removal in runs.removals:
        if _is_done(removal):
            for each in (*_runs_of(removal, runs), removal):
                if not each.deleting:
                    yield DeleteRun(name=each.name, why=f"{removal.removes and removal.removes[0]} was removed")


def _tried_again(failed: Iterable[SeriesRun], now: datetime) -> Iterator[DeleteRun]:
    for each in failed:
        if each.ended is not None and now >= each.ended + AGAIN and not each.deleting:
            yield DeleteRun(name=each.name, why="the removal is tried again")


def _unremoved(removal: SeriesRun) -> UnremovedCheckpoint:
    url = removal.removes[0] if removal.removes is not None else ""
    return UnremovedCheckpoint(
        name=removal.name, url=url, reason=removal.reason or removal.phase.value, message=removal.message[:1024]
    )
