"""How a launcher makes the processes of its ranks; a test that needs no torch makes others."""

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from typing import Final, Literal, cast

from dcp_worker.rank.process import enter

_SERVER_SETUP: Final = "dcp_worker.launcher.forkserver_setup"
_OPTIMIZERS: Final = "torch._dynamo"
"""What torch imports for the first optimizer of a process: 1.5 s that each rank would spend for itself."""


@dataclass(frozen=True)
class RankProcesses:
    """How the processes of the ranks are made.

    Args:
        run: What each process runs, with the arguments of `dcp_worker.rank.process.enter`.
        preload: The modules that the server which forks the ranks imports, after its own setup.
        method: multiprocessing's start method. With `fork` the launcher forks them by itself, and nothing is preloaded.
    """

    run: Callable[..., None] = enter
    preload: Sequence[str] = ("dcp_worker.rank.run",)
    method: Literal["fork", "forkserver"] = "forkserver"

    def context(self, *, trains: bool) -> ForkServerContext:
        """Return what starts the processes. `trains`: whether the ranks will make an optimizer."""
        # The type of get_context depends on its argument; what a launcher uses is common to both.
        context = cast("ForkServerContext", multiprocessing.get_context(self.method))
        more = [_OPTIMIZERS] if trains and self.preload else []
        context.set_forkserver_preload([_SERVER_SETUP, *self.preload, *more])
        return context
