"""What is seen of a Checkpoint's target: the pods that it selects, and the agents that are connected from them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.training import AgentState, EndedSave, Resumed, TakenRequest


@dataclass(frozen=True, kw_only=True)
class TargetPod:
    """A pod of the target that runs."""

    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class ConnectedAgent:
    """Rank 0 of a training, as it last spoke to the operator."""

    pod: str
    pod_uid: str
    state: AgentState
    heard: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    """Of the pod, as it was when the agent spoke."""

    @property
    def group(self) -> str:
        """The process group that it speaks for."""
        return self.state.group

    @property
    def resumed_from(self) -> Resumed | None:
        """The checkpoint that the training went on from."""
        return self.state.resumed_from

    def taken(self, request: str) -> TakenRequest | None:
        """Return what it says of a request that it has taken and not ended."""
        return next((each for each in self.state.requests if each.id == request), None)

    def ended(self, request: str) -> EndedSave | None:
        """Return what it says of a request that it has ended."""
        return next((each for each in self.state.ended if each.requested and each.id == request), None)


@dataclass(frozen=True, kw_only=True)
class ObservedTarget:
    """A target at one moment.

    Args:
        pods: Its pods that run; None where they could not be listed.
        agents: Those of the namespace that are connected. Their pods need not be the target's.
        served: Whether this operator has a channel that agents can connect to.
        served_since: Since when this process answers them; None where that does not matter.
        newest: The newest checkpoint of the Checkpoint's series, where it is of one.
    """

    pods: Sequence[TargetPod] = ()
    agents: Sequence[ConnectedAgent] = ()
    served: bool = True
    served_since: datetime | None = None
    newest: CheckpointInfo | None = None

    @property
    def own(self) -> list[ConnectedAgent]:
        """The agents in the target's pods."""
        uids = {each.uid for each in self.pods}
        return [each for each in self.agents if each.pod_uid in uids]

    def agent_of(self, group: str, pod_uid: str) -> ConnectedAgent | None:
        """Return the agent of a process group, if it speaks from that very pod."""
        return next((each for each in self.agents if each.group == group and each.pod_uid == pod_uid), None)

    def is_over(self, group: str, pod_uid: str) -> bool:
        """Return whether a process group is gone: its pod runs no more, or has another one by now."""
        there = any(each.uid == pod_uid for each in self.pods)
        return not there or any(each.pod_uid == pod_uid and each.group != group for each in self.agents)
