"""What is known of each connected agent, and what it is answered.

An agent is known by its pod. What it says replaces what it said before; what it is told is derived from the statuses of
Checkpoints (`TargetedSaves`). So nothing here has to outlive the process.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from dcp_contract.training import HOLD_SECONDS, MAX_REQUESTS, AgentOrders, AgentState, SaveStage
from dcp_operator.api.json_types import ReadBody
from dcp_operator.controllers.target.observed import ConnectedAgent
from dcp_operator.kube.channel.callers import Caller
from dcp_operator.kube.client.api import CHECKPOINTS, SERIES, ObjectKey, Resource
from dcp_operator.kube.view.adopting_series import AdoptingSeries
from dcp_operator.kube.view.targeted_saves import OpenSave, TargetedSaves

KEPT_SECONDS: Final = 60.0
"""For how long an agent counts as connected after its last answer."""
AGAIN_SECONDS: Final = 2.0
"""Seconds after which an answer is repeated that an agent shows no sign of having got."""


@dataclass
class _Connected:
    caller: Caller
    agent: ConnectedAgent
    poll: int = 0
    """Number of the latest POST: an earlier one that is still held is answered at once."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    answered: AgentOrders | None = None
    forget: asyncio.TimerHandle | None = None


@dataclass
class Hub:
    """The agents that are connected to this process.

    Args:
        saves: What is asked of them.
        series: Which take what they save by themselves.
        wake: Called with each object to which something has happened.
    """

    saves: TargetedSaves
    series: AdoptingSeries
    wake: Callable[[ObjectKey], None]
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it began to answer, or ceased to: soon after, an agent that is not connected may be on its way."""
    _agents: dict[str, dict[str, _Connected]] = field(default_factory=lambda: defaultdict(dict), init=False)
    """By namespace, and there by the pod's uid."""

    def __post_init__(self) -> None:
        """Hear of each Save whose status changes, and of each series that does."""
        self.saves.changed = self.series.changed = self._changed

    @property
    def namespaces(self) -> list[str]:
        """The namespaces that have something with a target."""
        return sorted({*self.saves.namespaces, *self.series.namespaces})

    def any_of(self, namespace: str) -> tuple[Resource, ReadBody] | None:
        """Return something of a namespace that has a target; None if there is nothing."""
        for resource, body in ((CHECKPOINTS, self.saves.any_of(namespace)), (SERIES, self.series.any_of(namespace))):
            if body is not None:
                return resource, body
        return None

    @property
    def count(self) -> int:
        """How many agents are connected."""
        return sum(len(each) for each in self._agents.values())

    def agents(self, namespace: str) -> list[ConnectedAgent]:
        """Return the agents that are connected from pods of a namespace."""
        return [each.agent for each in self._agents.get(namespace, {}).values()]

    def hear(self, caller: Caller, state: AgentState, labels: Mapping[str, str]) -> int:
        """Take in what an agent says, from a pod with these labels; return the number of this POST."""
        known = self._agents[caller.namespace].get(caller.uid)
        agent = ConnectedAgent(pod=caller.pod, pod_uid=caller.uid, state=state, heard=datetime.now(UTC), labels=labels)
        if known is None:
            known = self._agents[caller.namespace][caller.uid] = _Connected(caller, agent)
        elif known.forget is not None:
            known.forget.cancel()
            known.forget = None
        before = known.agent.state if known.poll else None
        if before is None or before.group != state.group:
            known.answered = None
        known.agent, known.poll = agent, known.poll + 1
        known.news.set()
        for save in self.saves.of(caller.namespace):
            if _concerns(save, before, state):
                self.wake(save.key)
        if before is None or before.group != state.group or _own(before) != _own(state):
            for key in self.series.takers(caller.namespace, agent):
                self.wake(key)
        return known.poll

    async def orders(self, caller: Caller, poll: int) -> AgentOrders:
        """Return the answer to a POST, as soon as there is something new to say or it has been held long enough."""
        known = self._agents[caller.namespace][caller.uid]
        agent, state = known.agent, known.agent.state
        loop = asyncio.get_running_loop()
        deadline = loop.time() + min(max(0.0, state.hold_seconds), HOLD_SECONDS)
        while True:
            known.news.clear()
            orders = self._orders(caller.namespace, agent)
            left = deadline - loop.time()
            if known.poll != poll or left <= 0:
                break
            if says_something(orders, state):
                if orders != known.answered:
                    break
                left = min(left, AGAIN_SECONDS)
            elif orders.retention != (known.answered.retention if known.answered is not None else ""):
                break
            try:
                async with asyncio.timeout(left):
                    await known.news.wait()
            except TimeoutError:
                orders = self._orders(caller.namespace, agent)
                break
        known.answered = orders
        return orders

    def answered(self, caller: Caller, poll: int) -> None:
        """Note that a POST has got its answer, or has been broken off; without another one the agent is forgotten."""
        known = self._agents.get(caller.namespace, {}).get(caller.uid)
        if known is None or known.poll != poll:
            return
        if known.forget is not None:
            known.forget.cancel()
        known.forget = asyncio.get_running_loop().call_later(KEPT_SECONDS, self.forget, caller)

    def forget(self, caller: Caller) -> None:
        """Forget an agent that is gone."""
        known = self._agents.get(caller.namespace, {}).pop(caller.uid, None)
        if known is None:
            return
        if not self._agents[caller.namespace]:
            del self._agents[caller.namespace]
        if known.forget is not None:
            known.forget.cancel()
        for save in self.saves.of(caller.namespace):
            if save.group in {"", known.agent.group}:
                self.wake(save.key)
        for key in self.series.takers(caller.namespace, known.agent):
            self.wake(key)

    def open(self) -> None:
        """Count from now on: agents come to this replica."""
        self.since = datetime.now(UTC)

    def close(self) -> None:
        """Forget all: another replica works now. A decision that is still under way here learns nothing from it."""
        self.since = datetime.now(UTC)
        for known in [each for agents in self._agents.values() for each in agents.values()]:
            if known.forget is not None:
                known.forget.cancel()
        self._agents.clear()

    def _changed(self, namespace: str) -> None:
        for known in self._agents.get(namespace, {}).values():
            known.news.set()

    def _orders(self, namespace: str, agent: ConnectedAgent) -> AgentOrders:
        state, own = agent.state, self.series.settled(namespace, agent)
        done = [
            each.id
            for each in state.ended
            if (self.saves.settled(namespace, each.id) if each.requested else each.id in own)
        ]
        ended = {each.id for each in state.ended}
        asked = self.saves.requests(namespace, state.group, agent.pod_uid)
        open_ = [each for each in asked if each.id not in ended]
        retention = self.series.retention(namespace, agent)
        return AgentOrders(requests=open_[:MAX_REQUESTS], acknowledged=done, retention=retention)


def says_something(orders: AgentOrders, state: AgentState) -> bool:
    """Return whether orders are news to an agent: a request, one that is withdrawn, or a save that is acknowledged."""
    taken = {each.id for each in state.requests}
    waiting = {each.id for each in state.requests if each.stage is SaveStage.WAITING}
    asked = {each.id for each in orders.requests}
    return bool(orders.acknowledged or waiting - asked or (asked - taken and not state.ends))


def _concerns(save: OpenSave, before: AgentState | None, state: AgentState) -> bool:
    """Return whether what an agent says now may change what is decided on a Save."""
    if before is None or before.group != state.group:
        return True
    if not save.group:
        return before.ends != state.ends or _own(before) != _own(state)
    return save.group == state.group and _lasting(before) != _lasting(state)


def _own(state: AgentState) -> list[str]:
    """Return the saves that training made by itself, by their ids."""
    return [each.id for each in state.ended if not each.requested]


def _lasting(state: AgentState) -> AgentState:
    """Return a state without what passes by itself: where nothing else changes, nobody need look."""
    return state.model_copy(update={"step": 0, "hold_seconds": 0.0})
