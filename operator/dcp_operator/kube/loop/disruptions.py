"""The trainings of series with an onDisruption, looked at again and again: is one of their pods about to be evicted?

Their pods are listed, and the nodes of these pods read by name: nothing is watched. A sign of an eviction has the
training save at once. Whatever asks for evictions then waits: for the operator's answer to the API server, or, where
that is not asked for, for a budget (`budgets`).
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from dcp_operator.api.json_types import Body, ReadBody
from dcp_operator.api.series.spec import Series
from dcp_operator.controllers.disruption.decide import holds
from dcp_operator.controllers.disruption.observed import Disruption, EvictedPod
from dcp_operator.controllers.disruption.signals import node_signal, pod_signal
from dcp_operator.controllers.disruption.waits import Waits
from dcp_operator.controllers.disruption.watch import Watched, bounded, watch
from dcp_operator.controllers.target.choice import CONNECTING
from dcp_operator.kube.channel.coverage import Coverage
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.client.api import (
    BUDGETS,
    CHECKPOINTS,
    NODES,
    PODS,
    SERIES,
    ApiError,
    GoneError,
    NameTakenError,
    ObjectKey,
    RefusedError,
)
from dcp_operator.kube.client.ownership import Owner
from dcp_operator.kube.loop.budgets import Budgets, TrainingPods
from dcp_operator.kube.loop.optional_reads import OptionalReads
from dcp_operator.kube.loop.reconcile import ReconcileContext
from dcp_operator.kube.view.holding_series import HoldingSeries
from dcp_operator.kube.view.series_runs import SeriesRuns
from dcp_operator.objects.series_run import checkpoint_before_disruption

logger = logging.getLogger(__name__)

PAUSE: Final = 5.0
"""Seconds between two rounds."""
AT_ONCE: Final = 8
_CACHED: Final = {"resourceVersion": "0"}
_COMPONENTS: Final = {NODES.plural: "drain-signals", BUDGETS.plural: "disruption-budget"}


@dataclass
class Disruptions:
    """Has trainings save before they are disrupted.

    Args:
        context: What the reconcilers share.
        runs: Which Checkpoints are of which series.
        series: Which series are looked at.
        hub: The agents that are connected.
        coverage: Tells whether the API server asks about evictions.
        seconds_now: A clock that never goes back.
    """

    context: ReconcileContext
    runs: SeriesRuns
    series: HoldingSeries
    hub: Hub
    coverage: Coverage
    seconds_now: Callable[[], float] = time.monotonic
    _waits: Waits = field(default_factory=Waits, init=False)
    _answered: dict[ObjectKey, frozenset[str]] = field(default_factory=dict, init=False)
    _said: dict[ObjectKey, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Make what keeps the budgets."""
        self.reads = OptionalReads(self.context.now, _COMPONENTS)
        self._budgets = Budgets(self.context, self.reads, self.coverage, self.series)

    async def forever(self) -> None:
        """Look again and again."""
        while True:
            await self.look()
            await asyncio.sleep(PAUSE)

    async def look(self) -> None:
        """Look at all series once."""
        for known in (self._answered, self._said):
            for key in known.keys() - self.series.keys:
                del known[key]
        limit, nodes = asyncio.Semaphore(AT_ONCE), _Nodes(self.context, self.reads)
        listening = self._listening()

        async def one(key: ObjectKey) -> None:
            async with limit:
                try:
                    await self._look_at(key, nodes, listening)
                except ApiError as error:
                    self._say(key, str(error))
                except Exception:
                    logger.exception("%s: evictions of its training can't be looked after", key)

        await asyncio.gather(*(one(key) for key in sorted(self.series.keys | self._budgets.kept)))

    def _listening(self) -> Collection[ObjectKey] | None:
        """Return the series of which agents are connected; None while more of them may be on their way."""
        if self._late():
            return None
        namespaces = {key.namespace for key in self.series.keys}
        agents = ((each, agent) for each in namespaces for agent in self.hub.agents(each))
        return {key for each, agent in agents for key in self.series.by_target.of(each, agent.labels)}

    def _late(self) -> bool:
        return self.context.now() < self.hub.since + CONNECTING

    async def _look_at(self, key: ObjectKey, nodes: "_Nodes", listening: Collection[ObjectKey] | None) -> None:
        series = self._parsed(key)
        if series is None or series.spec.template.spec.target is None or key not in self.series.keys:
            await self._budgets.let_go(key, self.context.view.cache.served.uid(key))
            return
        if listening is not None and key not in listening and key not in self._budgets.kept:
            # Nobody could save: their pods are none of our business, however many such series there are.
            await self._budgets.keep(key, series, TrainingPods((), ()), held=False)
            return
        listed = await self._pods(series, series.spec.template.spec.target.label_selector)
        selected = [pod for _, pod in listed]
        own = [(each, pod) for each, pod in listed if holds(series, pod) and not self._is_of_earlier(key, pod)]
        pods, signals = [pod for _, pod in own], await nodes.signals([each for each, _ in own])
        agents, now = {each.pod_uid for each in self.hub.agents(key.namespace)}, self.context.now()
        seen = Watched(
            pods=pods,
            signals=signals,
            connected=any(each.uid in agents for each in pods),
            late=self._late(),
            known=self._disruptions(series),
            answered=self._answered.get(key, frozenset()),
        )
        found = bounded(watch(series, seen, now), series, seen, self._waits, self.seconds_now())
        self._answered[key], held = found.answered, found.held
        if found.begin is not None:
            pod, name = found.begin
            logger.info("%s: %s saves first, since pod %s is to go: %s", key, name, pod.name, signals[pod.uid])
            try:
                await self._begin(series, pod, name)
            except (NameTakenError, RefusedError) as error:
                # It can't save: what would its pods wait for?
                self._say(key, str(error))
                held = False
        await self._budgets.keep(key, series, TrainingPods(pods, selected), held=held)

    def _parsed(self, key: ObjectKey) -> Series | None:
        served = self.context.view.cache.served
        found = served.parsed(key) if served.uid(key) else None
        return found if isinstance(found, Series) else None

    async def _pods(self, series: Series, selector: str) -> list[tuple[Body, EvictedPod]]:
        """Return the pods that a target selects, and that run."""
        running = "status.phase=Running"
        listed = self.context.cluster.list_bodies(PODS, series.namespace, selector, how=_CACHED, fields=running)
        found = [(each, EvictedPod.of(each)) async for each in listed]
        return [(each, pod) for each, pod in found if pod.runs]

    def _is_of_earlier(self, key: ObjectKey, pod: EvictedPod) -> bool:
        """Return whether evictions of a pod wait for a series of an earlier name: of several the first one counts."""
        keys = (each for each in self.series.by_target.of(key.namespace, pod.labels) if each < key)
        return any(holds(each, pod) for each in map(self._parsed, keys) if each is not None)

    def _disruptions(self, series: Series) -> list[Disruption]:
        runs = self.runs.of(series.namespace, series.uid).all
        keys = (CHECKPOINTS.key(series.namespace, each.name) for each in runs if each.before_disruption)
        return [Disruption.of(each) for each in map(self.context.view.cache.served.body, keys) if each is not None]

    async def _begin(self, series: Series, pod: EvictedPod, name: str) -> None:
        """Create the Save before a disruption, or find it created."""
        body = checkpoint_before_disruption(series, name, pod.uid)
        owner = Owner(SERIES, series.name, series.uid)
        created = await self.context.cluster.create_served(CHECKPOINTS, body, owner)
        if (made := self.context.view.ingest(CHECKPOINTS, created)) is not None:
            self.context.wake(made)

    def _say(self, key: ObjectKey, error: str) -> None:
        if self._said.get(key) != error:
            self._said[key] = error
            logger.warning("%s: evictions of its training can't be looked after now: %s", key, error)


@dataclass
class _Nodes:
    """The nodes of one round: each is read once."""

    context: ReconcileContext
    reads: OptionalReads
    _found: dict[str, "asyncio.Task[str]"] = field(default_factory=dict, init=False)

    async def signals(self, pods: Sequence[ReadBody]) -> dict[str, str]:
        """Return why pods are about to be evicted, by the uids of those that are."""
        found: dict[str, str] = {}
        for pod in pods:
            why = pod_signal(pod) or await self._signal((pod.get("spec") or {}).get("nodeName", ""))
            if why:
                found[pod["metadata"]["uid"]] = why
        return found

    async def _signal(self, name: str) -> str:
        if not name or not self.reads.may(NODES):
            return ""
        if name not in self._found:
            self._found[name] = asyncio.ensure_future(self._read(name))
        return await self._found[name]

    async def _read(self, name: str) -> str:
        try:
            return node_signal(await self.context.cluster.get(NODES, "", name))
        except GoneError:
            return ""
        except RefusedError as error:
            self.reads.note(NODES, error)
            return ""
