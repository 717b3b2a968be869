"""The agent: a few lines in a training loop, after which the training is saved on request, in time, and before it ends.

Each rank makes one. Training calls `step` at each boundary, which is the end of a step; that call compares two numbers
and returns. Everything else is done by threads, and by training itself only at a boundary where all ranks save.
"""

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from os import PathLike, fspath
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import torch.distributed as dist
from torch.distributed import distributed_c10d as c10d

import dcp_engine
from dcp_agent.agreement import NEVER, Go, Passage, Wish, ask, listen
from dcp_agent.keeping import Keep
from dcp_agent.orders import NO_ORDER, SaveOrder
from dcp_agent.rank_zero import RankZero, RankZeroOptions
from dcp_agent.resuming import newest
from dcp_agent.saves import Saved, Saves
from dcp_agent.shared_store import Halting, SharedStore
from dcp_agent.signals import SignalThread
from dcp_agent.state import State, TrainingState
from dcp_engine.errors import EngineError, InvalidOption
from dcp_engine.torch_internals import default_store

if TYPE_CHECKING:
    from dcp_contract.checkpoint_info import CheckpointInfo

LOG: Final = logging.getLogger("dcp_agent")
STOPPED_EXIT_CODE: Final = 128 + signal.SIGTERM
"""What a process leaves with that was asked to stop: a Job does not take its pod for a complete one."""


class Agent:
    """Saves a running training and resumes it. Every rank makes one, in the same order, after `init_process_group`."""

    def __init__(
        self,
        state: State,
        prefix: str | PathLike[str],
        *,
        every: timedelta | None = None,
        every_steps: int | None = None,
        keep: Keep | None = None,
        also: Sequence[str] = (),
        wait: float = 10.0,
        overwrite: bool = False,
        on_stop: Callable[[Saved | None], Any] | None = None,
        on_failure: Callable[[EngineError], Any] | None = None,
        storage_options: Mapping[str, Any] | None = None,
        signals: bool = True,
    ) -> None:
        """Join the agents of the other ranks. Not collective: no rank waits for another here.

        Args:
            state: What is saved and resumed: a dict of objects with `state_dict` and `load_state_dict`, a function that
                returns a state dict, or a pair of such a function and one that takes what was loaded.
            prefix: Where the checkpoints of this run go: `<prefix>/step-<n>`.
            every: Save when so much time has passed since the last save began, by rank 0's clock.
            every_steps: Save at each multiple of this many steps.
            keep: Which checkpoints under the prefix stay; rank 0 removes the others after each commit. None: all.
            also: Further prefixes that an operator may have this training save under.
            wait: Seconds that ranks halt at most to agree on a boundary; then training goes on without that save.
            overwrite: Replace a checkpoint that stands at `<prefix>/step-<n>`; without it, that step is not saved.
            on_stop: Called on each rank after the save of a stop, in place of SystemExit(143) from `step`.
            on_failure: Called on each rank with the error of a save that failed; a failure is logged in any case.
            storage_options: Options of the store that are no secret, as for `dcp_engine.save`.
            signals: Save and leave at SIGTERM, save at SIGUSR1; the main thread makes the agent then.

        Raises:
            InvalidOption: the state has no known form, a number is not positive, or signals are wanted in a thread that
                can't have them.
        """
        _check_positive(every_steps=every_steps, wait=wait, every=None if every is None else every.total_seconds())
        self.rank, self.world, self._joined, self._number = _joined()
        self._every_steps, self._wait, self._on_stop = every_steps, wait, on_stop
        self._saves = Saves(TrainingState(state), fspath(prefix).rstrip("/"), storage_options, overwrite=overwrite)
        self._saves.on_failure = on_failure
        self._halting = Halting()
        self._gate = self._halting.gate
        self._zero: RankZero | None = None
        if self.rank == 0:
            rules = RankZeroOptions(world=self.world, every=every, keep=keep, also=tuple(also))
            self._zero = RankZero(self._saves, self._halting, self._ask, rules)
        self._asking, self._asking_lock = SharedStore(self._joined, self._number), threading.Lock()
        self._due = self._first_due(0)
        self._over = threading.Event()
        self._resumes = self._saves_done = 0
        self._found: CheckpointInfo | None = None
        self._listener: threading.Thread | None = None
        self._signals = SignalThread(self._on_signal) if signals else None
        _thread("dcp-agent-warm-up", self._warm_up)

    # What training calls

    def resume(self) -> int:
        """Load the newest committed checkpoint under the prefix. Collective: all ranks call it, before the first step.

        Until a step is trained, another call loads the same one.

        Returns:
            How many steps were trained before it; 0 where there is no checkpoint. The same on every rank.

        Raises:
            EngineError: the prefix can't be listed, or the newest checkpoint can't be loaded.
        """
        saves = self._saves
        if self._resumes == 0 or self._listener is not None:
            self._found = newest(saves.prefix, saves.options, self.rank, self._asking, self._resumes)
            self._resumes += 1
        found = self._found
        if found is None or found.step is None:
            LOG.info("nothing is committed under %s: training begins at step 0", saves.prefix)
            return 0
        loaded = saves.state.get()
        dcp_engine.load(loaded, found.url, storage_options=saves.options)
        saves.state.put(loaded)
        saves.resumed(found, found.step)
        if self._zero is not None:
            self._zero.resumed(found)
        self._gate.at = found.step
        self._due = self._first_due(found.step)
        LOG.info("resumed from %s, after %d steps", found.url, found.step)
        return found.step

    def step(self, step: int) -> None:
        """Say that training is at a boundary, with so many steps behind it. Every rank calls it after each step.

        Returns at once, unless all ranks save here.

        Args:
            step: How many steps of the run have been trained.

        Raises:
            SystemExit: with code 143, after the save of a stop.
        """
        gate = self._gate
        # The order counts: see Gate.
        gate.at = step
        if step < gate.limit and step < self._due:
            return
        self._at_boundary(step)

    def poll(self) -> None:
        """Say that training is still at the boundary of the last `step`, as in a long evaluation between two steps.

        Before the first step, where no rank listens yet, it returns at once: what was asked waits for that step.

        Raises:
            SystemExit: with code 143, after the save of a stop.
        """
        gate = self._gate
        gate.polled = gate.at
        if self._listener is not None and gate.at >= gate.limit:
            self._pass()

    def save_now(self) -> None:
        """Ask for a save at the next boundary that all ranks can reach. Any rank may call it, in any thread."""
        self._ask(Wish.SAVE, f"save_now on rank {self.rank}")

    def close(self, *, save: bool = True) -> Saved | None:
        """Save the last boundary, answer what was asked past it, and wait for the commit. Every rank calls it.

        Args:
            save: Whether the last boundary is saved, if it is not on the store already; the same on every rank.

        Returns:
            How the last save ended, or what was resumed from where none was made since; None if there is neither.
        """
        self._listen_from_now()
        with self._halting.changed:
            self._gate.end()
            self._halting.changed.notify_all()
        if save and not self._over.is_set():
            self.save_now()
        while not self._over.is_set():
            self._ask(Wish.END, f"the end of rank {self.rank}'s training")
            self._pass()
        self._leave()
        if self._signals is not None:
            self._signals.close()
        return self._saves.last

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    # At a boundary

    def _at_boundary(self, step: int) -> None:
        self._listen_from_now()
        if step >= self._due:
            self._due = self._first_due(step)
            self._saves.begin(step, time.monotonic())
        if step >= self._gate.limit:
            self._pass()

    def _first_due(self, step: int) -> int:
        """Return the next boundary after a step at which a save is due by the count of steps."""
        every = self._every_steps
        return NEVER if every is None else (step // every + 1) * every

    def _pass(self) -> None:
        """Halt at a boundary until the listener knows, and act on what was agreed."""
        halted = time.monotonic()
        halting = self._halting
        with halting.changed:
            while (found := self._gate.passage()) is Passage.HALTED:
                halting.changed.notify_all()
                halting.changed.wait()
            halting.changed.notify_all()
            order = SaveOrder.model_validate_json(found.order) if isinstance(found, Go) and found.order else NO_ORDER
            if isinstance(found, Go) and self._zero is not None:
                self._zero.begin(order, self._gate.at)
        if isinstance(found, Go):
            self._act(found, order, halted)
        elif not isinstance(found, Passage):
            if self._gate.ended:
                self._over.set()
                LOG.info("the last step, %d, is past: %s", self._gate.at, found)
            else:
                LOG.error("no save at step %d: %s; training goes on", self._gate.at, found)

    def _act(self, agreed: Go, order: SaveOrder, halted: float) -> None:
        if agreed.end or agreed.stop:
            self._over.set()
        if agreed.save:
            self._begin(agreed, order, halted)
        if agreed.stop:
            self._leave()
            LOG.warning("asked to stop: training ends after step %d", self._gate.at)
            if self._on_stop is None:
                sys.exit(STOPPED_EXIT_CODE)
            self._on_stop(self._saves.last)

    def _begin(self, agreed: Go, order: SaveOrder, halted: float) -> None:
        """Begin what was agreed on. A save elsewhere, on request, takes the place of no save of the training."""
        own, self._saves_done = agreed.stop or agreed.saves > self._saves_done, agreed.saves
        final = agreed.stop or agreed.end
        if order.url is None:
            self._saves.begin(self._gate.at, halted, order, final=final)
            return
        if own:
            self._saves.begin(self._gate.at, halted, final=final)
        self._saves.begin(self._gate.at, halted, order, final=final)

    def _leave(self) -> None:
        """Wait for the save on its way, and until the other ranks, and the operator, know as much as this one."""
        if self._zero is not None:
            self._zero.close()
        self._saves.finish()
        if self._listener is not None:
            self._listener.join()
        if self._zero is not None:
            self._zero.leave()

    # Threads

    def _listen_from_now(self) -> None:
        """Take part in rounds. Not before training is at a boundary: `resume` moves it from one to another.

        Raises:
            InvalidOption: the process group is another one than that of the agent: ranks would save each by itself.
        """
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        if world != self.world and not self._over.is_set():
            raise InvalidOption(
                f"the agent was made for {self.world} ranks, and the process group has {world}: "
                "make the agent after init_process_group, and close it before destroy_process_group"
            )
        if self._listener is not None:
            return
        self._gate.open()
        self._listener = _thread("dcp-agent", self._listen)
        if self._zero is not None:
            self._zero.start()

    def _listen(self) -> None:
        try:
            role = listen(self.rank, self.world, self._gate, self._wait)
            self._halting.carry_out(role, SharedStore(self._joined, self._number))
        except dist.DistError as error:
            if not self._over.is_set():
                LOG.error("no more saves on request: the store that joined the ranks is gone: %s", error)  # noqa: TRY400
        finally:
            with self._halting.changed:
                self._gate.abandon()
                self._halting.changed.notify_all()

    def _ask(self, wish: Wish, by: str) -> None:
        try:
            with self._asking_lock:
                self._halting.carry_out(ask(wish, self._gate.number, by), self._asking)
        except dist.DistError as error:
            LOG.error("%s: nobody can be asked: the store that joined the ranks is gone: %s", by, error)  # noqa: TRY400

    def _on_signal(self, number: int) -> None:
        wish = Wish.STOP if number == signal.SIGTERM else Wish.SAVE
        self._ask(wish, f"{signal.Signals(number).name} on rank {self.rank}")

    def _warm_up(self) -> None:
        try:
            dcp_engine.warm(self._saves.url(0), storage_options=self._saves.options)
        except EngineError as error:
            LOG.warning("%s can't be reached yet: %s", self._saves.prefix, error)


def _check_positive(**options: float | None) -> None:
    for name, value in options.items():
        if value is not None and value <= 0:
            raise InvalidOption(f"{name}: more than 0, not {value:g}")


def _joined() -> tuple[int, int, c10d.Store, int]:
    """Return this rank, how many there are, the store that joined them, and the number of the agent in that store."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1, dist.HashStore(), 0  # type: ignore[attr-defined] # torch exports nothing by name
    rank, store = dist.get_rank(), default_store("dcp-agent")
    # By the store itself: it may outlive this process group, and an earlier agent's keys are no answer to this one.
    return rank, dist.get_world_size(), store, store.add(f"agents/{rank}", 1)


def _thread(name: str, target: Callable[..., None], *args: float) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread
