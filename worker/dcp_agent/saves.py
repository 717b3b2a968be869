"""The saves of one rank: one at a time, each in the background, and how each of them ended."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, Final

import dcp_engine
from dcp_agent.orders import NO_ORDER, SaveOrder
from dcp_agent.state import TrainingState
from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.errors import CheckpointExists, EngineError

LOG: Final = logging.getLogger("dcp_agent")


@dataclass(frozen=True, kw_only=True)
class Saved:
    """How a save ended."""

    step: int
    """How many steps of training come before it."""
    url: str
    seconds: float = 0.0
    """From the boundary to the end of the save."""
    blocked_seconds: float = 0.0
    """How long training stood still for it on this rank."""
    info: CheckpointInfo | None = None
    """What was committed; None if the save failed."""
    error: EngineError | None = None
    requests: tuple[str, ...] = ()
    """The requests that it answers."""


class _UnderWay(threading.Thread):
    """Waits for a save to end, so that its end is told at once, and not when training comes to its next save."""

    def __init__(self, saving: dcp_engine.AsyncSave, saved: Saved, halted: float, end: Callable[[Saved], None]) -> None:
        super().__init__(name="dcp-agent-save", daemon=True)
        self._saving, self._halted, self._end = saving, halted, end
        self._lock = threading.Lock()
        self._saved = saved
        self.ended = False
        self.start()

    def answer(self, requests: tuple[str, ...]) -> None:
        """Have the save answer further requests, also where it has just ended."""
        with self._lock:
            if not self.ended:
                self._saved = replace(self._saved, requests=(*self._saved.requests, *requests))
                return
        self._end(replace(self._saved, requests=requests))

    def run(self) -> None:
        info, error = None, None
        try:
            info = self._saving.wait()
        except EngineError as raised:
            error = raised
        with self._lock:
            seconds = time.monotonic() - self._halted
            self._saved, self.ended = replace(self._saved, info=info, error=error, seconds=seconds), True
        self._end(self._saved)

    def saved(self) -> Saved:
        """Wait for the end, and return it."""
        self.join()
        return self._saved


@dataclass
class Saves:
    """Begins saves, and says how they ended. Training alone begins them, on every rank at the same boundaries.

    Args:
        state: What is saved.
        prefix: Checkpoints go to `<prefix>/step-<n>`.
        options: Options of the store that are no secret.
        overwrite: Whether a checkpoint that stands there is replaced.
        on_failure: Called with the error of a save that failed, by training, at its next save.
        on_end: Called with each save as soon as it has ended, by a thread, and again where it answers a later request.
        on_progress: Called with the bytes that this rank has written, and with all that it has to write.
    """

    state: TrainingState
    prefix: str
    options: Mapping[str, Any] | None
    _: KW_ONLY
    overwrite: bool
    on_failure: Callable[[EngineError], Any] | None = None
    on_end: Callable[[Saved], Any] = lambda _: None
    on_progress: Callable[[int, int], None] | None = None
    last: Saved | None = None
    """How the last save ended, once training has waited for it; or what training resumed from."""
    began: float = field(default_factory=time.monotonic)
    """When the last save began, or this rank, by the monotonic clock."""
    _own: set[str] = field(default_factory=set)
    """The saves that this process has committed or resumed from."""
    _under_way: _UnderWay | None = None
    _place: tuple[int, str] | None = None
    """Boundary and URL of the last save."""

    @property
    def busy(self) -> bool:
        """Whether a save is on its way."""
        saving = self._under_way
        return saving is not None and not saving.ended

    def url(self, step: int) -> str:
        """Return where the checkpoint of a boundary goes."""
        return f"{self.prefix}/step-{step}"

    def resumed(self, info: CheckpointInfo, step: int) -> None:
        """Note that what stands at a boundary is on the store already."""
        self.last = Saved(step=step, url=info.url, info=info)
        self._place = step, info.url
        self._own.add(info.save_id)

    def foreign(self, url: str) -> CheckpointInfo | None:
        """Return what stands at a URL, if it was not saved or loaded here; one process may ask.

        Raises:
            EngineError: the store can't be asked.
        """
        found = dcp_engine.find(url, storage_options=self.options)
        return None if found is None or found.save_id in self._own else found

    def begin(self, step: int, halted: float, order: SaveOrder = NO_ORDER, *, final: bool = False) -> None:
        """Begin a save, once the one before has ended. A save of this very boundary and place is not made twice.

        Every rank decides alike: by what it has begun, and, where it waits, by how that ended on all ranks.

        Args:
            step: The boundary.
            halted: When training halted there, by the monotonic clock.
            order: What rank 0 says of it.
            final: Whether this is the last chance: a save of this boundary that has failed is tried again.
        """
        url, requests = order.url or self.url(step), tuple(order.requests)
        if self._place == (step, url) and not final and self._under_way is not None:
            self._under_way.answer(requests)
            return
        self.finish()
        if self._place == (step, url) and self.last is not None and (self.last.info is not None or not final):
            if requests:
                self.on_end(replace(self.last, requests=requests, blocked_seconds=time.monotonic() - halted))
            return
        self.began, self._place = time.monotonic(), (step, url)
        saved = Saved(step=step, url=url, requests=requests)
        try:
            saving = dcp_engine.async_save(
                self._state_dict(),
                url,
                step=step,
                overwrite=self.overwrite or order.overwrite,
                origin=order.origin,
                storage_options=self.options,
                on_progress=self.on_progress,
            )
        except EngineError as error:
            saved = replace(saved, error=error, blocked_seconds=time.monotonic() - halted)
            self._end(saved)
            self._take(saved)
        else:
            saved = replace(saved, blocked_seconds=time.monotonic() - halted)
            self._under_way = _UnderWay(saving, saved, halted, self._end)

    def finish(self) -> None:
        """Wait for the save on its way."""
        if self._under_way is not None:
            saved, self._under_way = self._under_way.saved(), None
            self._take(saved)

    def _end(self, saved: Saved) -> None:
        if saved.info is not None:
            self._own.add(saved.info.save_id)
        elif isinstance(saved.error, CheckpointExists):
            LOG.warning("step %d was not saved: %s", saved.step, saved.error)
        else:
            LOG.error("the save of step %d failed, training goes on: %s", saved.step, saved.error)
        self.on_end(saved)

    def _take(self, saved: Saved) -> None:
        self.last = saved
        if saved.error is not None and self.on_failure is not None:
            self.on_failure(saved.error)

    def _state_dict(self) -> dict[str, Any]:
        try:
            return self.state.get()
        except Exception as error:  # noqa: BLE001 - the save raises it again, on all ranks
            return {"state": _Failed(error)}


class _Failed:
    """Stands for the state of a rank that could not give it: the save fails by it on all ranks, and none hangs."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def state_dict(self) -> dict[str, Any]:
        raise self._error

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise NotImplementedError
