"""How a process ends while a background save is on its way: the save ends first, and a failure shows.

A failure that nobody saw must not end in exit code 0: a launcher would take the run for a whole one. Needs no torch.
"""

import atexit
import gc
import io
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from functools import cache
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, Final, NoReturn

from dcp_engine import pending
from dcp_engine.errors import EngineError, InvalidOption

LOG = logging.getLogger("dcp_engine")
_POLL_SECONDS: Final = 0.02


@cache
def watch() -> None:
    """Let a program that ends without a wait end its save first.

    At the interpreter's exit, concurrent.futures forbids new threads before Python joins the thread of the save, which
    needs some. Handlers run last-in first-out: this one registers after that of concurrent.futures, and so runs before.
    """
    threading._register_atexit(_finish)  # type: ignore[attr-defined] # noqa: SLF001 - as concurrent.futures does
    sys.exit = _exit


def finish_on_sigterm(within: float = 25.0) -> None:
    """From now on let a SIGTERM wait for the background save, `within` seconds at most, before it takes effect.

    Without this call SIGTERM ends the process as it always does, and a save in the background is lost: it is not
    committed. A handler that stands already is called after the save; without one the default action is taken then; a
    SIGTERM that is ignored stays ignored. The main thread calls it, on every rank; a handler that is installed later
    replaces it.

    Args:
        within: seconds to wait for the save at most. Kubernetes and torchrun kill after 30 s, unless told otherwise:
            choose less than that.

    Raises:
        InvalidOption: this is not the main thread, or SIGTERM has a handler that Python can't call.
    """
    earlier = signal.getsignal(signal.SIGTERM)
    if earlier is signal.SIG_IGN or isinstance(earlier, _OnSigterm):
        return
    if threading.current_thread() is not threading.main_thread() or earlier is None:
        raise InvalidOption(
            "finish_on_sigterm: call it in the main thread, where SIGTERM has its default action or a Python handler"
        )
    signal.signal(signal.SIGTERM, _OnSigterm(within, earlier))


class _OnSigterm:
    """The handler; it takes no lock, since it may run in the middle of anything that the main thread does."""

    def __init__(self, within: float, earlier: Any) -> None:  # noqa: ANN401 - what signal.getsignal returns
        self._within = within
        self._earlier = earlier
        self._waits = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self._waits:  # a launcher and the kubelet may both send one
            return
        self._waits = True
        self._await_save()
        self._waits = False
        if callable(self._earlier):
            self._earlier(number, frame)
            return
        signal.signal(number, self._earlier)
        os.kill(os.getpid(), number)

    def _await_save(self) -> None:
        save = pending.last()
        until = time.monotonic() + self._within
        while save and not save.done():
            if time.monotonic() > until:
                LOG.error("SIGTERM: the async_save to %s did not end within %g s; it is lost", save.url, self._within)
                return
            time.sleep(_POLL_SECONDS)


class _Exit(SystemExit):
    """What sys.exit raises: notes the code that it ended the program with, which Python tells nobody."""

    final: Any = None

    def __del__(self) -> None:
        # Code that catches the exception drops it in a frame of its own. When the interpreter drops it, at the end of
        # the program, no frame is left.
        if sys._getframe().f_back is None and threading.current_thread() is threading.main_thread():  # noqa: SLF001
            _Exit.final = self.code


_Exit.__name__ = _Exit.__qualname__ = "SystemExit"


def _exit(status: Any = None, /) -> NoReturn:  # noqa: ANN401 - as sys.exit takes it
    """Exit the interpreter by raising SystemExit(status)."""
    raise _Exit(status)


def _finish() -> None:
    """Wait for the save; see to it that its failure shows, once all else that the program does at its end is done."""
    try:
        pending.finish()
    except EngineError as error:
        LOG.error("the last async_save failed: %s", error)  # noqa: TRY400 - the message says where and why
        frame = _child_of_multiprocessing()
        if frame is None and not (_raised() or _Exit.final):
            # Registered last, `_fail` is called first, and calls the other handlers itself.
            atexit.register(_fail)
        elif frame is not None and not frame.f_locals.get("exitcode"):
            raise  # multiprocessing makes exit code 1 of it


def _fail() -> None:
    """End with code 1, which Python has no other way to do at this point."""
    atexit.unregister(_fail)
    atexit._run_exitfuncs()  # noqa: SLF001 - the public way to run them is to end
    # By its type: isinstance asks an object of another type for `__class__`, which runs code of that object's.
    for stream in [each for each in gc.get_objects() if issubclass(type(each), io.TextIOWrapper | io.BufferedWriter)]:
        with suppress(Exception):
            stream.flush()
    os._exit(1)


def _raised() -> bool:
    """Tell whether an exception that nobody caught ends the program; its code is 1 or a signal's already."""
    trace = getattr(sys, "last_traceback", None)
    return trace is not None and trace.tb_frame.f_back is None


def _child_of_multiprocessing() -> FrameType | None:
    """Return the frame that runs a child of multiprocessing, which ends without the interpreter's own end."""
    frame: FrameType | None = sys._getframe()  # noqa: SLF001
    while frame and frame.f_code is not BaseProcess._bootstrap.__code__:  # type: ignore[attr-defined] # noqa: SLF001
        frame = frame.f_back
    return frame
