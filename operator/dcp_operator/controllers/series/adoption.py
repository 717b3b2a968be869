"""Saves that a training makes by itself, taken into a series: each becomes a Checkpoint, which tells how it ended.

An agent lists such a save until `is_settled` says that it need not. What it says is foreign: a pod of the target may
report anything. So nothing is created for a URL outside of the series' prefix, and no more than so many a minute.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from dcp_contract.prefixes import as_url
from dcp_contract.training import EndedSave
from dcp_operator.api.checkpoint.in_store import StoreUse
from dcp_operator.api.checkpoint.target import Target
from dcp_operator.api.json_types import ReadBody
from dcp_operator.api.naming import report_name
from dcp_operator.api.series.spec import Series
from dcp_operator.api.series.status import RefusedSave, SeriesStatus
from dcp_operator.api.storage_url import below, normal, protocol, url_problems
from dcp_operator.controllers.series.actions import CreateReport, DeleteRun
from dcp_operator.controllers.series.history import YOUNG, is_young
from dcp_operator.controllers.series.runs import ReportedSave, Runs
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.controllers.target.reported import SAVE_ID, own_saves, save_of

MOST_A_MINUTE: Final = 30
"""Checkpoints that a series gets of a training's own saves. What is more stays listed by the agent, and waits."""
MOST: Final = 1000
"""Checkpoints of a training's own saves that a series has. What is more is refused."""
SAID: Final = timedelta(minutes=10)
"""A save that was refused is said once in this time."""
_LONGEST_URL: Final = 1024
TURN: Final = timedelta(seconds=5)
"""So long the Checkpoint of a save may take to tell of it before that of the pod's next save is created: the save that
was committed last is to be told of last."""
LOST: Final = timedelta(minutes=10)
"""After this time a Checkpoint of a save that no agent reports goes: nobody will say how that save ended."""


@dataclass(frozen=True, kw_only=True)
class Adoption:
    """What becomes of the saves that a series hears of."""

    create: tuple[CreateReport, ...] = ()
    delete: tuple[DeleteRun, ...] = ()
    refused: RefusedSave | None = None
    """For the status: the latest one that was refused."""
    wake_at: datetime | None = None


def heard(series: Series, agents: Iterable[ConnectedAgent]) -> tuple[ReportedSave, ...]:
    """Return the saves that agents in the target's pods list, the oldest of each first."""
    own = (each for each in agents if is_of_target(series, each))
    return tuple(_reported(agent, ended) for agent in own for ended in own_saves(agent))


def is_of_target(series: Series, agent: ConnectedAgent) -> bool:
    """Return whether a series takes the saves of an agent: it is in a pod of the series' target."""
    target = series.spec.template.spec.target
    return series.adopts and target is not None and target.selects(agent.labels)


def removes_for(series: Series, agent: ConnectedAgent) -> bool:
    """Return whether a series removes old checkpoints where an agent would: the agent's own `keep` is off then."""
    if series.spec.retention is None or not is_of_target(series, agent):
        return False
    # While nobody knows where the series removes, no agent is to remove what may be pinned.
    return series.waits_for_store or _covers(str(series.storage.get("url", "")), agent)


def means_to_remove(body: ReadBody, target: Target | None, agent: ConnectedAgent) -> bool:
    """Return whether the body of a series asks for a retention where an agent saves, whatever else is wrong with it.

    A spec that this operator can't work on now, such as one with a protocol that is not enabled, is no reason for the
    agent to remove what is pinned.
    """
    spec, store = body.get("spec") or {}, StoreUse.of(body)
    url = (spec.get("storage") or {}).get("url")
    if not spec.get("retention") or target is None:
        return False
    if store is not None and not store.found:
        # Nobody knows where it removes.
        return target.selects(agent.labels)
    return isinstance(url, str) and target.selects(agent.labels) and _covers(url, agent)


def _covers(prefix: str, agent: ConnectedAgent) -> bool:
    own = as_url(agent.state.prefix)
    return normal(own) == normal(prefix) or below(prefix, own)


def keepers(series: Series, agents: Iterable[ConnectedAgent]) -> tuple[str, ...]:
    """Return the pods of agents that have a `keep` of their own, which is off."""
    return tuple(sorted(each.pod for each in agents if each.state.keeps and removes_for(series, each)))


def is_settled(
    series: Series, runs: Runs, status: SeriesStatus, agent: ConnectedAgent, ended: EndedSave, now: datetime
) -> bool:
    """Return whether an agent need not list a save any more, for all that this series has to do with it.

    The outcome stands in a Checkpoint's status, or the series' status says that such a save is refused.
    """
    if not is_of_target(series, agent):
        return True
    if series.waits_for_store:
        return False
    report = _reported(agent, ended)
    if _why_refused(series, runs, report):
        return _is_said(status.refused_save, now)
    return _is_known(series, runs, status, report)


def adopt(series: Series, runs: Runs, status: SeriesStatus, now: datetime) -> Adoption:
    """Return which Checkpoints to create for the saves that a training made by itself, and which of them to delete.

    Args:
        series: The series.
        runs: Its Checkpoints, and the saves that agents list.
        status: What the series' status says.
        now: The time.
    """
    if series.waits_for_store:
        # An agent lists its saves until somebody has taken them.
        return Adoption(refused=status.refused_save)
    there = {each.reports: each for each in runs.reports}
    young = [each.created for each in runs.reports if each.created is not None and is_young(each, now)]
    create: dict[str, CreateReport] = {}
    refused, turns, waits = list[RefusedSave](), dict[str, datetime](), False
    for report in runs.heard:
        if why := _why_refused(series, runs, report):
            refused.append(RefusedSave(pod=report.pod[:253], url=report.url[:1024], message=why, time=_second(now)))
        elif report.pod in turns or _is_known(series, runs, status, report):
            continue
        elif (told := there.get(report.save)) is not None:
            if told.created is not None and now < told.created + TURN:
                turns[report.pod] = told.created + TURN
        elif len(young) + len(create) < MOST_A_MINUTE:
            create[report.save] = CreateReport(name=_name(series, report), save=report.save, url=report.url)
            turns[report.pod] = now + TURN
        else:
            waits = True
    lost = list(_lost(runs, now))
    times = [
        *turns.values(),
        *(at for _, at in lost if at > now),
        *(each + YOUNG for each in young),
        *([now + YOUNG] if waits else []),
    ]
    return Adoption(
        create=tuple(create.values()),
        delete=tuple(DeleteRun(name=name, why="no agent reports its save") for name, at in lost if at <= now),
        refused=_latest_refused(status.refused_save, refused, now),
        wake_at=min(times, default=None),
    )


def _reported(agent: ConnectedAgent, ended: EndedSave) -> ReportedSave:
    info = ended.checkpoint
    return ReportedSave(
        pod=agent.pod,
        save=save_of(ended),
        url=as_url((info.url if info is not None else "") or ended.url),
        step=info.step if info is not None and info.step is not None else ended.step,
        save_id=info.save_id if info is not None and ended.failure is None else None,
    )


def _why_refused(series: Series, runs: Runs, report: ReportedSave) -> str:
    """Return why a series does not take a save; empty where it does."""
    prefix = str(series.storage.get("url", ""))
    if not report.url:
        return "It names no URL."
    if not below(prefix, report.url):
        return f"It lies outside of spec.storage.url, {prefix}."
    if (
        len(report.url) > _LONGEST_URL
        or not report.url.isprintable()
        or list(url_problems("url", report.url, (protocol(prefix),)))
    ):
        return "Its URL is none that a Checkpoint may have."
    if report.save_id is not None and not SAVE_ID.fullmatch(report.save_id):
        return "The id of the save is none."
    if len(runs.reports) >= MOST and all(each.reports != report.save for each in runs.reports):
        return f"The series has {MOST} Checkpoints of saves of the training. Set spec.retention or spec.historyLimit."
    return ""


def _is_known(series: Series, runs: Runs, status: SeriesStatus, report: ReportedSave) -> bool:
    """Return whether a Checkpoint has told how a save ended: its own, or that of a request which the save answered."""
    if any(each.reports == report.save and each.finished for each in runs.reports):
        return True
    saved = (normal(report.url), report.save_id)
    if any(each.committed and each.saved == saved for each in runs.all):
        return True
    removed = status.retention.removed if status.retention is not None else ()
    return any(each.name == _name(series, report) for each in removed)


def _name(series: Series, report: ReportedSave) -> str:
    return report_name(series.name, report.step, report.save)


def _lost(runs: Runs, now: datetime) -> Iterator[tuple[str, datetime]]:
    """Yield the Checkpoints that wait for a report which nobody makes, and until when."""
    listed = {each.save for each in runs.heard}
    for each in runs.reports:
        if not each.finished and not each.deleting and each.reports not in listed and each.created is not None:
            yield each.name, min(each.created, now) + LOST


def _latest_refused(before: RefusedSave | None, found: Sequence[RefusedSave], now: datetime) -> RefusedSave | None:
    if not found or _is_said(before, now):
        return before
    return found[-1]


def _is_said(refused: RefusedSave | None, now: datetime) -> bool:
    """Return whether a status has said not long ago that a save was refused; by whatever clock."""
    return refused is not None and abs(now - refused.time) < SAID


def _second(now: datetime) -> datetime:
    return now.replace(microsecond=0)
