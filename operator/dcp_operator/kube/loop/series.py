"""What a reconcile of a series does beyond that of any kind: what it creates and deletes is itself served."""

import logging
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

from dcp_operator.api.checkpoint.spec import DeletionPolicy
from dcp_operator.api.json_types import Body
from dcp_operator.api.problems import SpecError
from dcp_operator.api.series.spec import Series
from dcp_operator.controllers.decision import Decision
from dcp_operator.controllers.deletion.saved import policy_of
from dcp_operator.controllers.series.actions import CreateRemoval, CreateReport, CreateRun, SeriesAction
from dcp_operator.controllers.series.adoption import heard, keepers
from dcp_operator.controllers.series.decide import first, wait_for_creation
from dcp_operator.controllers.series.evictions import asks_for_holding, with_evictions
from dcp_operator.controllers.series.runs import Runs, SeriesRun
from dcp_operator.kube.channel.coverage import Coverage
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.client.api import CHECKPOINTS, NameTakenError, ObjectKey, RefusedError
from dcp_operator.kube.client.ownership import Owner
from dcp_operator.kube.kinds.kind import Kind
from dcp_operator.kube.kinds.series import CHECKPOINT_SERIES
from dcp_operator.kube.loop.reconcile import Reconciler
from dcp_operator.kube.view.holding_series import HoldingSeries
from dcp_operator.kube.view.series_runs import SeriesRuns

logger = logging.getLogger(__name__)

_AGAIN: Final = timedelta(seconds=30)


@dataclass
class SeriesReconciler(Reconciler[Series, Runs, SeriesAction]):
    """Brings series in order.

    Args:
        runs: Which Checkpoints are of which series.
        coverage: Tells whether evictions wait for them.
        hub: The agents of trainings; None where this operator has no channel.
        holding: Tells of which a budget holds evictions.
    """

    kind: Kind[Series, Runs, SeriesAction] = CHECKPOINT_SERIES
    runs: SeriesRuns = field(kw_only=True)
    coverage: Coverage = field(kw_only=True)
    hub: Hub | None = field(default=None, kw_only=True)
    holding: HoldingSeries = field(default_factory=HoldingSeries, kw_only=True)
    _held: dict[ObjectKey, datetime] = field(default_factory=dict, init=False)
    """By series whose Checkpoints of saves are forbidden, such as by a quota: until when none is created. An agent that
    reports without end must not have the API server asked without end."""

    def observed(self, key: ObjectKey, body: Body) -> Runs:
        """Return the Checkpoints of a series, and the saves that its training lists."""
        runs = self.runs.of(key.namespace, body["metadata"]["uid"])
        runs = replace(runs, removals=tuple(self._with_its_job(key.namespace, each) for each in runs.removals))
        series: Series | SpecError = self.cache.served.parsed(key, body)
        if self.hub is None or isinstance(series, SpecError):
            return replace(runs, served=self.hub is not None)
        agents = self.hub.agents(key.namespace)
        return replace(runs, heard=heard(series, agents), keepers=keepers(series, agents))

    def _with_its_job(self, namespace: str, removal: SeriesRun) -> SeriesRun:
        """Return a Delete that has begun if its Job is there. Under load the status that says so is written later."""
        owned = self.cache.owned.of(CHECKPOINTS.key(namespace, removal.name), removal.uid)
        return replace(removal, begun=removal.begun or any(owned.values()))

    def written(self, before: Body, body: Body) -> None:
        """Log a save that was refused, once the status says so."""
        refused = body["status"].get("refusedSave")
        if refused is not None and refused != before.get("refusedSave"):
            who = f"{body['metadata']['namespace']}/{body['metadata']['name']}"
            said = (refused.get("url", ""), refused["pod"], refused["message"])
            logger.warning("%s: the save at %r that pod %s reports is not taken: %s", who, *said)

    async def decide(self, key: ObjectKey, body: Body) -> tuple[Series | SpecError, Decision[SeriesAction]]:
        """Return the parsed series, or what is wrong with it, and what to do."""
        parsed, decision = await super().decide(key, body)
        lacking = await self.coverage.lacking(key.namespace) if asks_for_holding(parsed) else None
        budget = bool(lacking) and key in self.holding.by_budget
        return parsed, with_evictions(decision, parsed, lacking, self.context.now(), budget=budget)

    async def create(
        self, key: ObjectKey, body: Body, parsed: Series | SpecError, decision: Decision[SeriesAction]
    ) -> Decision[SeriesAction]:
        """Create what tells of saves, the run that begins and the removals; return what is left of the decision.

        What is refused is decided on again, and nothing else has to wait for it.
        """
        if isinstance(parsed, SpecError):
            return decision
        owner = Owner(self.kind.resource, key.name, body["metadata"]["uid"])
        now = self.context.now()
        for action in decision.actions:
            if isinstance(action, CreateReport) and now < self._held.get(key, now):
                decision = replace(decision, wake_at=first(decision.wake_at, self._held[key]))
                continue
            for each in self.kind.build(parsed, action):
                try:
                    await self._create(each, owner, waits=isinstance(action, CreateRemoval))
                except (NameTakenError, RefusedError) as error:
                    if not isinstance(action, CreateRun):
                        logger.warning("%s: %s can't be created yet: %s", key, action.name, error)
                        decision = replace(decision, wake_at=first(decision.wake_at, now + _AGAIN))
                        if isinstance(action, CreateReport) and isinstance(error, RefusedError):
                            self._held[key] = now + _AGAIN
                        continue
                    status = body.get("status") or {}
                    return wait_for_creation(parsed, self.observed(key, body), status, decision, str(error), now)
        return decision

    async def _create(self, body: Body, owner: Owner, *, waits: bool) -> None:
        """Create a Checkpoint; one that `waits` begins once the watch tells of it, as of all that was created before.

        Such as of a Load of what a Delete is to remove.
        """
        created = await self.cluster.create_served(CHECKPOINTS, body, owner)
        # The watch will bring nothing new of it: so it is looked at by whoever hears of it first.
        if not waits and (made := self.view.ingest(CHECKPOINTS, created)) is not None:
            self.context.wake(made)

    async def leave(self, key: ObjectKey, body: Body | None) -> float | None:
        """Forget what was forbidden of a series that is gone."""
        del body
        self._held.pop(key, None)
        return None

    async def delete(self, key: ObjectKey, uid: str, name: str) -> None:
        """Delete the Checkpoint of a run. The cluster's garbage collector deletes its Jobs; nobody deletes its data."""
        run = CHECKPOINTS.key(key.namespace, name)
        if its := self.runs.uid_of(run, uid):
            if policy_of(self.cache.served.body(run)) is DeletionPolicy.DELETE:
                # Only a person's deletion takes data along.
                await self.cluster.retain_data(CHECKPOINTS, key.namespace, name, its)
            await self.delete_watched(CHECKPOINTS, key.namespace, name, its)
