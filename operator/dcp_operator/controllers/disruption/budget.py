"""The PodDisruptionBudget of a training, and the Jobs that it hangs on: which are made, replaced and removed. Pure.

A budget belongs to a Job that makes no pods, ends after `hold`, and is removed as it ends. Kubernetes' garbage
collector then removes the budget. So an operator that is gone holds up evictions for `hold`, and no longer. While it is
there it makes a new Job in time, hands the budget over, and removes the old one.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self

from dcp_operator.api.bodies import condition, optional_time
from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.naming import BUDGET_LABEL
from dcp_operator.controllers.disruption.observed import EvictedPod

SHORTEST: Final = timedelta(seconds=30)
"""That a Job of a budget stays, however short evictions are held: else it would end between two looks."""


@dataclass(frozen=True, kw_only=True)
class Guard:
    """A Job that a budget may hang on."""

    name: str
    uid: str
    number: int
    started: datetime | None = None
    """When its time began to run; None for one that is suspended, as by a queue: that one would never end."""
    lasts: timedelta = timedelta(0)
    goes: bool = True
    """Whether it makes no pods, and is removed as it ends."""
    over: bool = False
    deleting: bool = False

    @classmethod
    def of(cls, body: ReadBody) -> Self:
        """Return the one that a Job's body shows."""
        metadata, spec, status = body["metadata"], body.get("spec") or {}, body.get("status") or {}
        number = metadata["name"].rpartition("-")[2]
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            number=int(number) if number.isdecimal() else 0,
            started=None if spec.get("suspend") else optional_time(status.get("startTime")),
            lasts=timedelta(seconds=spec.get("activeDeadlineSeconds") or 0),
            goes=(spec.get("parallelism"), spec.get("ttlSecondsAfterFinished")) == (0, 0),
            over=any(condition(status, each) is not None for each in ("Complete", "Failed", "FailureTarget")),
            deleting=bool(metadata.get("deletionTimestamp")),
        )

    def left(self, now: datetime) -> timedelta:
        """Return the time that is left of it."""
        if self.over or self.deleting:
            return timedelta(0)
        return self.lasts - (now - self.started) if self.started is not None else self.lasts

    def holds(self, lasts: timedelta, now: datetime) -> bool:
        """Return whether a budget that hangs on it goes in time, and not yet: somebody may have changed the Job."""
        return self.goes and self.lasts <= lasts and self.left(now) > timedelta(0)


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A PodDisruptionBudget of the namespace."""

    name: str
    uid: str
    version: str
    of_series: str = ""
    """The series that it is made for; empty where it is somebody else's."""
    guard: str = ""
    """Uid of the Job that it hangs on."""
    minimum: object = None
    selector: ReadBody | None = None
    deleting: bool = False

    @classmethod
    def of(cls, body: ReadBody) -> Self:
        """Return the one of a body."""
        metadata, spec = body["metadata"], body.get("spec") or {}
        owners = metadata.get("ownerReferences") or ()
        return cls(
            name=metadata["name"],
            uid=metadata["uid"],
            version=metadata["resourceVersion"],
            of_series=(metadata.get("labels") or {}).get(BUDGET_LABEL, ""),
            guard=next((str(each.get("uid", "")) for each in owners), ""),
            minimum=spec.get("minAvailable"),
            selector=spec.get("selector"),
            deleting=bool(metadata.get("deletionTimestamp")),
        )


@dataclass(frozen=True, kw_only=True)
class CreateGuard:
    """Make a Job for the budget to hang on."""

    number: int
    seconds: int


@dataclass(frozen=True, kw_only=True)
class PutBudget:
    """Make the budget, or bring it up to date."""

    guard: Guard
    minimum: int
    there: Budget | None = None


@dataclass(frozen=True, kw_only=True)
class DeleteBudget:
    """Let evictions through."""

    budget: Budget


@dataclass(frozen=True, kw_only=True)
class DeleteGuard:
    """Remove a Job that nothing hangs on."""

    guard: Guard


BudgetAction = CreateGuard | PutBudget | DeleteBudget | DeleteGuard


def keep(
    guards: Sequence[Guard],
    there: Budget | None,
    minimum: int,
    labels: Mapping[str, str],
    hold: timedelta,
    now: datetime,
) -> list[BudgetAction]:
    """Return what has to be done for the budget to stand.

    Args:
        guards: The Jobs that are there.
        there: The budget; None where it is not.
        minimum: How many pods run: so many have to stay.
        labels: The labels of the pods.
        hold: How long evictions wait at most.
        now: The time.
    """
    lasts = max(hold, SHORTEST)
    usable = sorted((each for each in guards if each.holds(lasts, now)), key=lambda each: each.number)
    hung = next((each for each in guards if there is not None and each.uid == there.guard), None)
    actions: list[BudgetAction] = []
    if not usable or usable[-1].left(now) <= lasts / 2:
        number = max((each.number for each in guards), default=0) + 1
        actions.append(CreateGuard(number=number, seconds=round(lasts.total_seconds())))
    actions += (
        DeleteGuard(guard=each)
        for each in guards
        if each not in usable and each is not hung and not each.deleting and not (each.over and each.goes)
    )
    started = [each for each in usable if each.started is not None]
    if not started:
        # What goes by itself may stay until there is another one. Nothing would ever remove what hangs on another.
        stays = hung is not None and hung.started is not None and hung.goes and hung.left(now) > timedelta(0)
        return actions if stays else [*actions, *drop((), there)]
    newest = started[-1]
    if there is None or (there.guard, there.minimum, there.selector) != (newest.uid, minimum, selecting(labels)):
        return (
            actions
            if there is not None and there.deleting
            else [*actions, PutBudget(guard=newest, minimum=minimum, there=there)]
        )
    return [*actions, *(DeleteGuard(guard=each) for each in usable if each.number < newest.number)]


def selecting(labels: Mapping[str, str]) -> Body:
    """Return the selector of the pods that have these labels."""
    return {"matchLabels": dict(labels)}


def drop(guards: Sequence[Guard], there: Budget | None) -> list[DeleteBudget | DeleteGuard]:
    """Return what has to be done for evictions to pass."""
    budget = [DeleteBudget(budget=there)] if there is not None and not there.deleting else []
    return [*budget, *(DeleteGuard(guard=each) for each in guards if not each.deleting)]


def own(budgets: Iterable[Budget], name: str, series: str) -> Budget | None:
    """Return the budget of a series."""
    return next((each for each in budgets if (each.name, each.of_series) == (name, series)), None)


def in_the_way(budgets: Iterable[Budget], name: str, series: str, pods: Sequence[EvictedPod]) -> str:
    """Return the name of another budget over one of the pods; empty where there is none.

    Two budgets over a pod make each of its evictions fail, with an error that nobody expects. Of two series the first
    one by its name has the budget; what is nobody's series comes before all.
    """
    for each in budgets:
        if each.name == name and each.of_series != series:
            return each.name
        before = each.of_series < series
        if before and not each.deleting and any(selects(each.selector, pod.labels) for pod in pods):
            return each.name
    return ""


def selects(selector: ReadBody | None, labels: Mapping[str, str]) -> bool:
    """Return whether a selector selects what has these labels: in policy/v1 an empty one all, and none nothing."""
    if selector is None:
        return False
    wanted: Mapping[str, str] = selector.get("matchLabels") or {}
    rules = selector.get("matchExpressions") or ()
    return wanted.items() <= labels.items() and all(_matches(each, labels) for each in rules)


def _matches(rule: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    has, value = rule["key"] in labels, labels.get(rule["key"])
    match rule["operator"]:
        case "In":
            return has and value in rule.get("values", ())
        case "NotIn":
            return not has or value not in rule.get("values", ())
        case "Exists":
            return has
        case _:
            return not has
