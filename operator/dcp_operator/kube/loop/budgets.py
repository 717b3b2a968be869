"""The PodDisruptionBudgets of trainings, where the API server does not ask the operator about evictions.

A budget stands from the time that an agent is connected, since a drain evicts a few milliseconds after it has cordoned
a node. It goes once the save before a disruption has ended.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from dcp_operator.api.naming import BUDGET_LABEL, budget_name, guard_name
from dcp_operator.api.series.spec import OnDisruption, Series
from dcp_operator.controllers.decision import Event
from dcp_operator.controllers.disruption.budget import (
    Budget,
    BudgetAction,
    CreateGuard,
    DeleteBudget,
    DeleteGuard,
    Guard,
    PutBudget,
    drop,
    in_the_way,
    keep,
    own,
)
from dcp_operator.controllers.disruption.observed import EvictedPod
from dcp_operator.kube.channel.coverage import Coverage
from dcp_operator.kube.client.api import BUDGETS, JOBS, NODES, SERIES, NameTakenError, ObjectKey, RefusedError
from dcp_operator.kube.client.ownership import Owner, controlled
from dcp_operator.kube.loop.optional_reads import OptionalReads
from dcp_operator.kube.loop.reconcile import ReconcileContext
from dcp_operator.kube.view.holding_series import HoldingSeries
from dcp_operator.objects.disruption_budget import budget_of, guard_of_budget

logger = logging.getLogger(__name__)

LEFT_OUT: Final = "BudgetLeftOut"
COUNTS: Final = timedelta(seconds=30)
"""For how long it counts whether the API server asks about evictions in a namespace."""


class TrainingPods(NamedTuple):
    """The pods of a training that run."""

    own: Sequence[EvictedPod]
    """Those whose evictions wait for its series."""
    selected: Sequence[EvictedPod]
    """All that its budget would be of: evictions of some may wait for another series."""


@dataclass
class Budgets:
    """Has the budget of each training stand, or not.

    Args:
        context: What the reconcilers share.
        reads: What may be read.
        coverage: Tells whether the API server asks about evictions.
        series: The series, and of which a budget holds evictions.
    """

    context: ReconcileContext
    reads: OptionalReads
    coverage: Coverage
    series: HoldingSeries
    kept: set[ObjectKey] = field(default_factory=set, init=False)
    """The series for which this process has kept a budget."""
    _told: dict[ObjectKey, str] = field(default_factory=dict, init=False)
    _needed: dict[str, tuple[datetime, bool]] = field(default_factory=dict, init=False)
    """By namespace: until when it counts, and whether budgets are needed there."""

    async def keep(self, key: ObjectKey, series: Series, pods: TrainingPods, *, held: bool | None) -> None:
        """Keep the budget of a series, or let it go.

        Args:
            key: The series.
            series: The same, parsed.
            pods: The pods that run.
            held: Whether those of its training are to be held now; None for as it is.
        """
        needed = await self._is_needed(series.namespace)
        if not needed:
            self._serves(key, by_budget=False)
        held = held if needed and pods.own else False
        if not held and key not in self.kept and (not needed or key in self.series.by_budget):
            return
        standing = await self._standing(key, series.uid)
        if standing is None:
            self._serves(key, by_budget=False)
            return
        guards, budgets = standing
        name, hold = budget_name(series.name), series.spec.on_disruption or OnDisruption()
        there = own(budgets, name, series.name)
        other = in_the_way(budgets, name, series.name, pods.selected) if needed else ""
        target = series.spec.template.spec.target
        refused: list[str] = []
        if held is None and there is None:
            actions: list[BudgetAction] = []
        elif held is not False and not other and target is not None:
            self.kept.add(key)
            actions = keep(guards, there, len(pods.own), target.labels, hold.time, self.context.now())
        else:
            actions = [*drop(guards, there)]
            if not actions:
                self.kept.discard(key)
        for action in actions:
            try:
                await self._carry_out(series, action)
            except (NameTakenError, RefusedError) as error:
                refused.append(str(error))
        self._tell(key, series, other, refused)
        self._serves(key, by_budget=needed and not other and (not refused or there is not None))

    async def let_go(self, key: ObjectKey, uid: str) -> None:
        """Have evictions pass where a series asks for nothing any more. With a series that is gone its budget goes."""
        standing = await self._standing(key, uid) if uid and key in self.kept else None
        if standing is not None:
            there = own(standing[1], budget_name(key.name), key.name)
            for action in drop(standing[0], there):
                await self._remove(key, action)
        self.kept.discard(key)

    async def _is_needed(self, namespace: str) -> bool:
        """Return whether evictions wait for nobody else. Without a look at nodes a budget would never be let go."""
        if not self.reads.may(NODES) or not self.reads.may(BUDGETS):
            return False
        now = self.context.now()
        until, needed = self._needed.get(namespace, (now, False))
        if now >= until:
            lacking = await self.coverage.lacking(namespace)
            if lacking is not None:
                needed = bool(lacking)
                self._needed[namespace] = now + COUNTS, needed
        return needed

    def _serves(self, key: ObjectKey, *, by_budget: bool) -> None:
        """Have the series say whether a budget holds evictions."""
        known = self.series.by_budget
        if by_budget != (key in known):
            known ^= {key}
            self.context.wake(key)

    async def _standing(self, key: ObjectKey, uid: str) -> tuple[list[Guard], list[Budget]] | None:
        """Return the Jobs that the budget may hang on, and all budgets of the namespace; None if forbidden."""
        cluster, owner = self.context.cluster, Owner(SERIES, key.name, uid)
        try:
            budgets = [Budget.of(each) async for each in cluster.list_bodies(BUDGETS, key.namespace)]
        except RefusedError as error:
            self.reads.note(BUDGETS, error)
            return None
        jobs = cluster.list_bodies(JOBS, key.namespace, f"{BUDGET_LABEL}={key.name}")
        guards = [Guard.of(each) async for each in jobs if controlled(each, owner)]
        return [each for each in guards if each.name == guard_name(key.name, uid, each.number)], budgets

    async def _carry_out(self, series: Series, action: BudgetAction) -> None:
        cluster = self.context.cluster
        match action:
            case CreateGuard():
                owner = Owner(SERIES, series.name, series.uid)
                await cluster.create_served(JOBS, guard_of_budget(series, action), owner)
            case PutBudget():
                version = action.there.version if action.there is not None else None
                await cluster.put(BUDGETS, budget_of(series, action), version)
            case DeleteBudget() | DeleteGuard():
                await self._remove(SERIES.key(series.namespace, series.name), action)

    async def _remove(self, key: ObjectKey, action: DeleteBudget | DeleteGuard) -> None:
        match action:
            case DeleteBudget():
                logger.info("%s/%s: evictions of its training may pass", key.namespace, key.name)
                await self.context.cluster.delete(BUDGETS, key.namespace, action.budget.name, action.budget.uid)
            case DeleteGuard():
                await self.context.cluster.delete(JOBS, key.namespace, action.guard.name, action.guard.uid)

    def _tell(self, key: ObjectKey, series: Series, other: str, refused: Sequence[str]) -> None:
        """Say that another budget is in the way, or that the API server takes none, once."""
        body, what = self.context.view.cache.served.body(key), other or ("/" if refused else "")
        if self._told.get(key, "") == what or body is None:
            return
        self._told[key] = what
        if not what:
            return
        pods = f"The pods of {series.spec.template.spec.target}"
        message = (
            f"{pods} have the PodDisruptionBudget {other}. Two budgets would make every eviction fail, so the operator "
            "makes none: evictions do not wait for a save."
            if other
            else f"{pods} get no PodDisruptionBudget, so evictions do not wait for a save: {'; '.join(refused)}"
        )
        logger.warning("%s: %s", key, message)
        self.context.recorder.record(SERIES, body, Event(type="Warning", reason=LEFT_OUT, message=message))
