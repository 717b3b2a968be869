"""What one case may leave in a rank for the next: set back where that is possible, and named where it is not."""

import gc
import logging
import os
import random
import resource
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import active_children
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGUSR1, signal.SIGUSR2)
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)
_WATCHED = ("dcp_", "torch.distributed", "obstore")
_WATCHED_ALONE = ("os", "io", "builtins", "shutil", "socket", "subprocess", "tempfile", "threading", "time", "torch")
_FSSPEC_THREADS = ("fsspecIO", "asyncio_")
"""The loop of fsspec and its threads, which serve a process for as long as it lives."""

_SECONDS_TO_END = 0.5


class RankState:
    """How a rank stood before its first case."""

    def __init__(self) -> None:
        import numpy as np
        import torch
        import torch.distributed as dist

        self._torch, self._dist, self._numpy = torch, dist, np
        self._drawn = torch.get_rng_state(), np.random.get_state()  # noqa: NPY002 - what is to be set back
        self._handlers = {each: signal.getsignal(each) for each in _SIGNALS}
        self._debug = dist.get_debug_level()  # type: ignore[attr-defined] # torch exports nothing by name
        self._fixed = self._settings()
        self._folder = Path.cwd()
        self._filters = warnings.filters[:]
        with warnings.catch_warnings(action="ignore"):  # of names that torch deprecates, as soon as one looks at them
            self._callables = list(_callables())

    def restore(self) -> tuple[str, ...]:
        """Set back what a case changed; return what can't be, so that this rank takes no other one."""
        from dcp_engine import failpoints, pending
        from dcp_engine.stores import object_store

        save = pending.last()
        if save and not save.done():
            return ("a background save",)  # whatever waits for it may wait for ever
        failpoints.hook = None
        pending._last.clear()
        object_store._guards.clear()
        if self._dist.is_initialized():
            self._dist.destroy_process_group()
        self._set_back()
        gc.collect()
        return tuple(self._left())

    def _set_back(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for name in [each for each in logging.root.manager.loggerDict if each.startswith(("dcp_", "torch"))]:
            logger = logging.getLogger(name)
            if name.startswith("dcp_"):
                logger.handlers.clear()
                logger.setLevel(logging.NOTSET)
                logger.propagate, logger.disabled = True, False
        warnings.filters[:] = self._filters  # type: ignore[index] # a list
        warnings._filters_mutated()  # type: ignore[attr-defined] # so that what was warned of once is again
        os.chdir(self._folder)
        self._torch.set_rng_state(self._drawn[0])
        self._numpy.random.set_state(self._drawn[1])
        random.seed()
        self._dist.set_debug_level(self._debug)  # type: ignore[attr-defined]

    def _left(self) -> Iterator[str]:
        threads = [each for each in threading.enumerate() if not _may_stay(each)]
        for each in threads:
            each.join(_SECONDS_TO_END)  # one whose work is done may be about to end
        yield from (f"thread {each.name}" for each in threads if each.is_alive())
        yield from (f"process {each.pid}" for each in active_children())
        children = Path(f"/proc/self/task/{os.getpid()}/children")
        yield from (f"process {each}" for each in children.read_text().split())
        settings = self._settings()
        yield from (f"{name} {settings[name]}" for name, before in self._fixed.items() if settings[name] != before)
        for owner, name, value in self._callables:
            if vars(owner).get(name) is not value:
                yield f"another {owner.__name__}.{name}"

    def _settings(self) -> dict[str, Any]:
        torch = self._torch
        mask = os.umask(0o22)
        os.umask(mask)
        return {
            "umask": mask,
            "limits": [resource.getrlimit(each) for each in _LIMITS],
            "dtype": torch.get_default_dtype(),
            "device": torch.get_default_device(),
            "threads": torch.get_num_threads(),
            "grad": torch.is_grad_enabled(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        }


def _may_stay(thread: threading.Thread) -> bool:
    return thread is threading.main_thread() or thread.name.startswith(_FSSPEC_THREADS)


def _callables() -> Iterator[tuple[ModuleType | type, str, Callable[..., Any]]]:
    """Look for what a program may put something of its own in the place of."""
    for module in [each for name, each in sys.modules.items() if name in _WATCHED_ALONE or name.startswith(_WATCHED)]:
        for name, value in list(vars(module).items()):
            if isinstance(value, FunctionType | type) or (callable(value) and module.__name__ in _WATCHED_ALONE):
                yield module, name, value
            if isinstance(value, type) and value.__module__ == module.__name__:
                yield from ((value, each, of) for each, of in vars(value).items() if isinstance(of, FunctionType))
