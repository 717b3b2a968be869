"""What rank 0 does for all ranks: it keeps time, talks to the operator, and removes old checkpoints."""

import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from dcp_agent.agreement import Wish
from dcp_agent.channel import ChannelClient, folder
from dcp_agent.keeping import Keep, Remover
from dcp_agent.orders import SaveOrder
from dcp_agent.requests import RequestBook
from dcp_agent.saves import Saved, Saves
from dcp_agent.shared_store import Halting
from dcp_contract.checkpoint_info import CheckpointInfo

LOG: Final = logging.getLogger("dcp_agent")
_TICK_SECONDS: Final = 0.05


SILENT_SECONDS: Final = 600.0
"""A training that may have an operator removes nothing before its first answer, for so long after the start."""
GRACE_ENV: Final = "DCP_GRACE_SECONDS"
"""How long the pod has after SIGTERM, in seconds, where no operator tells it."""


def grace_of_environment() -> float | None:
    """Return the pod's grace as its environment says it; None where that says none."""
    try:
        return float(os.environ.get(GRACE_ENV, ""))
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class RankZeroOptions:
    """What rank 0 goes by.

    Args:
        world: How many ranks there are.
        every: How often to save.
        keep: Which checkpoints stay; None: all.
        also: Further prefixes that the operator may name.
    """

    world: int
    every: timedelta | None
    keep: Keep | None
    also: tuple[str, ...]


class RankZero:
    """Rank 0's side of an agent. Only rank 0 has one."""

    def __init__(
        self, saves: Saves, halting: Halting, ask: Callable[[Wish, str], None], options: RankZeroOptions
    ) -> None:
        """Begin with nothing to do; `start` begins the threads.

        Args:
            saves: Rank 0's saves.
            halting: Where rank 0's training is, and what asks for the next order.
            ask: Asks all ranks, and says who wishes.
            options: What to go by.
        """
        self._saves, self._gate, self._ask, self._every = saves, halting.gate, ask, options.every
        self._place = folder()
        keep = options.keep if options.keep is not None and not options.keep.keeps_all else None
        self._book = RequestBook(saves.prefix, options.also, options.world, saves.foreign, keeps=keep is not None)
        self._channel: ChannelClient | None = None
        self._remover = Remover(saves.prefix, keep, saves.options, self._removes) if keep is not None else None
        self._began, self._deleter = time.monotonic(), ""
        self._over = threading.Event()
        self._warned = False
        saves.on_progress, saves.on_end = self._book.progress, self.ended
        halting.next_order = self._book.next_order

    def start(self) -> None:
        """Begin to keep time, and to talk to the operator where the pod has a token for it."""
        if self._every is not None:
            every = self._every.total_seconds()
            threading.Thread(target=self._keep_time, args=(every,), name="dcp-agent-clock", daemon=True).start()
        if self._place is not None:
            self._channel = ChannelClient(self._book, self._place, lambda: self._gate.at, self._ask_for_order)

    def resumed(self, info: CheckpointInfo) -> None:
        """Note what training goes on from."""
        self._book.resumed(info)

    def begin(self, order: SaveOrder, step: int) -> None:
        """Note that all ranks save at a boundary. Called before a further round can ask for `next_order`."""
        self._book.begin(order, step)
        if self._channel is not None:
            self._channel.tell()

    def ended(self, saved: Saved) -> None:
        """Note how a save has ended."""
        if self._channel is not None:
            self._book.end(saved)
            self._channel.tell()
        if saved.info is None:
            return
        LOG.info("saved step %d, for which training stood still for %.2f s", saved.step, saved.blocked_seconds)
        self._compare_with_grace(saved)
        if self._remover is not None:
            self._remover.committed()

    def close(self) -> None:
        """Take no more requests; call it before the last save is waited for."""
        self._over.set()
        self._book.close()

    def leave(self) -> None:
        """Wait until the operator knows how the last save ended, and until a removal on its way has ended."""
        if self._channel is not None:
            self._channel.close()
        if self._remover is not None:
            self._remover.close()

    def _removes(self) -> bool:
        """Return whether old checkpoints are this training's to remove, or those of a series with a retention."""
        series = self._channel.retention if self._channel is not None else ""
        if series is None:
            # The first answer may name one.
            return time.monotonic() >= self._began + SILENT_SECONDS
        if series != self._deleter:
            self._deleter = series
            LOG.info("keep is off: the retention of series %s removes" if series else "keep is on again%s", series)
        return not series

    def _compare_with_grace(self, saved: Saved) -> None:
        """Warn, once, where a stop would have too little time for a save like this one."""
        grace = self._channel.grace if self._channel is not None else None
        if grace is None:
            grace = grace_of_environment()
        if self._warned or grace is None or saved.seconds < grace:
            return
        self._warned = True
        LOG.warning(
            "the last save took %.0f s, and a stop has %.0f s: a SIGTERM would lose the steps since the last save. "
            "Set the pod's terminationGracePeriodSeconds higher; torchrun kills its ranks after 30 s unless "
            "--shutdown-timeout says otherwise",
            saved.seconds,
            grace,
        )

    def _ask_for_order(self) -> None:
        # While a save is on its way, training would stand still until it has ended.
        if not self._saves.busy:
            self._ask(Wish.ORDER, "the operator")

    def _keep_time(self, every: float) -> None:
        last = self._saves.began
        while not self._over.wait(max(_TICK_SECONDS, last + every - time.monotonic())):
            last = max(last, self._saves.began)
            if time.monotonic() >= last + every and not self._saves.busy:
                # Counted from now, too, should the round be given up.
                last = time.monotonic()
                self._ask(Wish.SAVE, f"{every:g} s since the last save")
