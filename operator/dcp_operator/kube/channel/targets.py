"""The target of a Checkpoint as it stands now: its pods, listed in their namespace, and the agents that are connected.

Pods of trainings are never watched: a watch of them would be one of all pods of the cluster.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from dcp_operator.api.checkpoint.target import Target
from dcp_operator.controllers.target.observed import ObservedTarget, TargetPod
from dcp_operator.kube.channel.hub import Hub
from dcp_operator.kube.client.reads import Reads

FRESH_SECONDS: Final = 1.0
"""For how long a list counts. Several Checkpoints of one target ask at once."""
_REMEMBERED: Final = 500


@dataclass
class TargetReader:
    """Gathers what is seen of targets.

    Args:
        cluster: Where pods are listed.
        hub: The agents; None where this operator has no channel.
    """

    cluster: Reads
    hub: Hub | None
    _lists: OrderedDict[tuple[str, str], tuple[float, tuple[TargetPod, ...]]] = field(
        default_factory=OrderedDict, init=False
    )

    async def of(self, namespace: str, target: Target) -> ObservedTarget:
        """Return the pods and the agents of a target."""
        if self.hub is None:
            return ObservedTarget(served=False)
        pods = await self._pods(namespace, target.label_selector)
        return ObservedTarget(pods=pods, agents=self.hub.agents(namespace), served_since=self.hub.since)

    async def _pods(self, namespace: str, selector: str) -> tuple[TargetPod, ...]:
        now = asyncio.get_running_loop().time()
        known = self._lists.get((namespace, selector))
        if known is not None and now < known[0] + FRESH_SECONDS:
            return known[1]
        listed = await self.cluster.running_pods(namespace, selector)
        pods = tuple(TargetPod(name=each["name"], uid=each["uid"]) for each in listed)
        self._lists[namespace, selector] = (now, pods)
        self._lists.move_to_end((namespace, selector))
        if len(self._lists) > _REMEMBERED:
            self._lists.popitem(last=False)
        return pods
