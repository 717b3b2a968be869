"""What an operator asks of a training, and what became of it. Rank 0 alone has such a book.

Threads of rank 0 use it: the channel takes requests and tells how they are, training begins saves, saves end.
"""

import posixpath
import threading
import uuid
from collections.abc import Callable, Sequence
from typing import Final

from dcp_agent.orders import SaveOrder
from dcp_agent.saves import Saved
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_contract.operations import IfExists
from dcp_contract.prefixes import as_url, is_step, is_under
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_contract.training import (
    HOLD_SECONDS,
    MAX_ENDED,
    MAX_REQUESTS,
    AgentOrders,
    AgentState,
    EndedSave,
    Resumed,
    SaveRequest,
    SaveStage,
    TakenRequest,
)
from dcp_engine.errors import EngineError

PROGRESS_SECONDS: Final = 1.0
"""How long an answer is held while a save runs."""
WAITING_SECONDS: Final = 5.0
"""The same while a request waits: the ranks may have given up, and are asked again."""
_REMEMBERED: Final = 1000


class RequestBook:
    """The requests that are open, and the ended saves that the operator has not acknowledged."""

    def __init__(
        self,
        prefix: str,
        also: Sequence[str],
        world: int,
        may_replace: Callable[[str], CheckpointInfo | None],
        *,
        keeps: bool = False,
    ) -> None:
        """Begin without any request.

        Args:
            prefix: Where training saves by itself.
            also: Further prefixes that a request may name.
            world: How many ranks there are.
            may_replace: Returns what stands at a URL if this training did not save it; None if it may be replaced.
            keeps: Whether the training removes old checkpoints by rules of its own.
        """
        self._prefix, self._also, self._may_replace = prefix, tuple(also), may_replace
        self._lock = threading.Lock()
        self._waiting: dict[str, SaveRequest] = {}
        self._saving: dict[str, TakenRequest] = {}
        self._ended: list[EndedSave] = []
        self._known: list[str] = []
        """Ids that were taken, the last ones."""
        self._own = set[str]()
        """Where this training has saved on request."""
        self._state = AgentState(group=uuid.uuid4().hex, world=world, prefix=prefix, also=list(also), keeps=keeps)

    # The channel's side

    def state(self, step: int) -> AgentState:
        """Return all that holds, with the last step that rank 0 has finished."""
        with self._lock:
            waiting = [TakenRequest(id=each, stage=SaveStage.WAITING) for each in self._waiting]
            update = {
                "step": step,
                "requests": [*self._saving.values(), *waiting][:MAX_REQUESTS],
                # A Checkpoint waits for each that was requested; the others may be kept back by their series.
                "ended": sorted(self._ended, key=lambda each: not each.requested)[:MAX_ENDED],
                "hold_seconds": self._hold(),
            }
            return self._state.model_copy(update=update)

    def _hold(self) -> float:
        if self._saving or self._state.ends:
            return PROGRESS_SECONDS
        return WAITING_SECONDS if self._waiting else HOLD_SECONDS

    def take(self, orders: AgentOrders) -> None:
        """Take in what the operator asks for; forget what it has acknowledged, and what it asks for no longer."""
        asked = {each.id: each for each in orders.requests}
        refused = [
            (each, failure) for each in asked.values() if each.id not in self._known if (failure := self._fault(each))
        ]
        with self._lock:
            self._ended = [each for each in self._ended if each.id not in orders.acknowledged]
            withdrawn = self._waiting.keys() - asked.keys()
            # It may be asked for again.
            self._known = [each for each in self._known if each not in withdrawn]
            self._waiting = {each: request for each, request in self._waiting.items() if each in asked}
            for each in asked.values():
                if each.id not in self._known and not self._state.ends:
                    self._known = [*self._known[-_REMEMBERED:], each.id]
                    self._waiting[each.id] = each
            for each, failure in refused:
                if self._waiting.pop(each.id, None) is not None:
                    self._ended.append(EndedSave(id=each.id, failure=failure))

    @property
    def is_asked(self) -> bool:
        """Whether a request waits for a save, and no requested save is on its way."""
        with self._lock:
            return bool(self._waiting) and not self._saving

    @property
    def has_news(self) -> bool:
        """Whether a save has ended that the operator has not acknowledged."""
        with self._lock:
            return bool(self._ended)

    # Training's side

    def resumed(self, info: CheckpointInfo) -> None:
        """Note what training goes on from."""
        with self._lock:
            found = Resumed(url=info.url, step=info.step, origin=info.origin)
            self._state = self._state.model_copy(update={"resumed_from": found})

    def next_order(self) -> str:
        """Return what the next save is for: the oldest request, with those that the same save answers."""
        with self._lock:
            if not self._waiting:
                return ""
            first, *others = self._waiting.values()
            shared = [each.id for each in others if (each.url, each.if_exists) == (first.url, first.if_exists)]
            overwrite = first.if_exists is IfExists.REPLACE and first.url is not None and self._is_own(first.url)
            return SaveOrder(
                requests=[first.id, *shared], url=first.url, overwrite=overwrite, origin=first.origin
            ).to_json()

    def _is_own(self, url: str) -> bool:
        """Return whether this training has saved there: where nothing stood, somebody else may have saved since."""
        return _place(url) in {*self._own, *(_place(each.url) for each in self._saving.values())}

    def begin(self, order: SaveOrder, step: int) -> None:
        """Note that all ranks save now for these requests."""
        url = order.url or f"{self._prefix}/step-{step}"
        with self._lock:
            for each in order.requests:
                if self._waiting.pop(each, None) is not None:
                    self._saving[each] = TakenRequest(id=each, stage=SaveStage.SAVING, step=step, url=url)

    def progress(self, moved: int, total: int) -> None:
        """Note how many bytes of how many rank 0 has written."""
        with self._lock:
            update = {"bytes": moved, "total_bytes": total}
            self._saving = {each: taken.model_copy(update=update) for each, taken in self._saving.items()}

    def end(self, saved: Saved) -> None:
        """Note how a save has ended, for each request that it answers."""
        ended = EndedSave(
            id=uuid.uuid4().hex,
            requested=False,
            step=saved.step,
            url=saved.url,
            seconds=saved.seconds,
            blocked_seconds=saved.blocked_seconds,
            checkpoint=saved.info,
            failure=_failure(saved.error) if saved.error is not None else None,
        )
        with self._lock:
            if saved.info is not None and not is_step(saved.url):
                self._own.add(_place(saved.url))
            answered = [each for each in saved.requests if self._saving.pop(each, None) is not None]
            answers = [ended.model_copy(update={"id": each, "requested": True}) for each in answered]
            self._ended += answers or [ended]
            # Nobody may ever listen.
            self._ended = self._ended[-_REMEMBERED:]

    def close(self) -> None:
        """Note that training is over: no request is taken any more."""
        with self._lock:
            self._waiting.clear()
            self._state = self._state.model_copy(update={"ends": True})

    def _fault(self, request: SaveRequest) -> RankFailure | None:
        """Return why a request is refused, if it is."""
        if request.url is None:
            return None
        if found := self._fault_of_url(request.url):
            return RankFailure(reason=Reason.TARGET_REFUSED, message=f"{request.url} {found}")
        try:
            stands = self._may_replace(request.url) if request.if_exists is IfExists.REPLACE else None
        except EngineError as error:
            return _failure(error)
        if stands is None:
            return None
        message = (
            f"{request.url} holds a checkpoint that this training did not save: {stands.origin or 'of unknown origin'}"
        )
        return RankFailure(reason=Reason.OVERWRITE_CONFLICT, message=message)

    def _fault_of_url(self, url: str) -> str:
        prefixes = (self._prefix, *self._also)
        if not any(is_under(url, each) and not is_under(each, url) for each in prefixes):
            return f"lies under none of the prefixes where this training may save: {', '.join(prefixes)}"
        # The run would go on from there, as if it had trained so far.
        return "is named as a step of the run, which the training alone counts" if is_step(url) else ""


def _place(url: str) -> str:
    return posixpath.normpath(as_url(url))


def _failure(error: EngineError) -> RankFailure:
    return RankFailure(
        rank=error.rank, reason=error.reason, message=error.message, time=error.time, traceback=error.traceback
    )
