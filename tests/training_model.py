"""A training without ranks, as its agent speaks: it takes what it is asked for, saves at a step, and tells of it."""

import uuid
from dataclasses import dataclass, field

from dcp_contract.checkpoint_info import CheckpointInfo, Origin
from dcp_contract.prefixes import is_under
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_contract.training import (
    AgentOrders,
    AgentState,
    EndedSave,
    Resumed,
    SaveRequest,
    SaveStage,
    TakenRequest,
)

PREFIX = "s3://bucket/run"


@dataclass
class Store:
    """What is committed, by URL: the step, and the origin of who asked."""

    committed: dict[str, tuple[int, Origin | None]] = field(default_factory=dict)
    saves: list[str] = field(default_factory=list)
    """The request of each save that was begun."""


@dataclass
class Training:
    """Rank 0 of a training, as its agent speaks."""

    store: Store
    step: int = 0
    group: str = field(default_factory=lambda: uuid.uuid4().hex)
    taken: dict[str, SaveRequest] = field(default_factory=dict)
    saving: set[str] = field(default_factory=set)
    ended: dict[str, EndedSave] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)
    resumed: Resumed | None = None
    ends: bool = False

    @classmethod
    def resume(cls, store: Store) -> "Training":
        """Go on from the newest commit."""
        found = max(store.committed.items(), key=lambda each: each[1][0], default=None)
        if found is None:
            return cls(store)
        url, (step, origin) = found
        return cls(store, step=step, resumed=Resumed(url=url, step=step, origin=origin))

    @property
    def state(self) -> AgentState:
        """What it says."""
        requests = [
            TakenRequest(
                id=each, stage=SaveStage.SAVING if each in self.saving else SaveStage.WAITING, step=self.step + 1
            )
            for each in self.taken
        ]
        return AgentState(
            group=self.group,
            world=2,
            prefix=PREFIX,
            step=self.step,
            requests=requests,
            ended=list(self.ended.values()),
            resumed_from=self.resumed,
            ends=self.ends,
            hold_seconds=0.02,
        )

    def obey(self, orders: AgentOrders) -> None:
        """Take in an answer."""
        for each in orders.acknowledged:
            self.ended.pop(each, None)
        asked = {each.id: each for each in orders.requests}
        for each in [each for each in self.taken if each not in asked and each not in self.saving]:
            del self.taken[each]
            self.known.discard(each)
        for id_, request in asked.items():
            if id_ not in self.known and not self.ends:
                self.known.add(id_)
                self.taken[id_] = request

    def save_itself(self, prefix: str = PREFIX) -> EndedSave:
        """Train a step and save it, unasked; it is reported from now on."""
        self.step += 1
        url, id_ = f"{prefix}/step-{self.step}", uuid.uuid4().hex
        self.store.committed[url] = (self.step, None)
        info = CheckpointInfo(url=url, save_id=uuid.uuid4().hex, step=self.step, bytes=64)
        self.ended[id_] = EndedSave(
            id=id_, requested=False, step=self.step, url=url, seconds=1, blocked_seconds=0.5, checkpoint=info
        )
        return self.ended[id_]

    def begin(self) -> None:
        """Reach the agreed step, and begin to save."""
        for id_ in self.taken.keys() - self.saving:
            self.saving.add(id_)
            self.store.saves.append(id_)

    def commit(self) -> None:
        """Commit what is being saved; nothing is known of it yet."""
        self.step += 1
        for id_ in sorted(self.saving):
            request = self.taken.pop(id_)
            self.saving.discard(id_)
            url = request.url or f"{PREFIX}/step-{self.step}"
            if not is_under(url, PREFIX):
                failure = RankFailure(reason=Reason.TARGET_REFUSED, message=f"{url} is under none of the prefixes")
                self.ended[id_] = EndedSave(id=id_, failure=failure)
                continue
            self.store.committed[url] = (self.step, request.origin)
            info = CheckpointInfo(url=url, save_id=uuid.uuid4().hex, step=self.step, bytes=64, origin=request.origin)
            self.ended[id_] = EndedSave(
                id=id_, step=self.step, url=url, seconds=1, blocked_seconds=0.5, checkpoint=info
            )
