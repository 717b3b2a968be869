"""Signals, told by a thread: a handler may run in the middle of anything, and so does nothing but write to a pipe."""

import logging
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from dcp_engine.errors import InvalidOption

LOG: Final = logging.getLogger("dcp_agent")
HEARD: Final = (signal.SIGTERM, signal.SIGUSR1)


class SignalThread:
    """Calls a function, in a thread of its own, for each SIGTERM and SIGUSR1 of this process."""

    def __init__(self, told: Callable[[int], Any]) -> None:
        """Install the handlers, in the main thread.

        Args:
            told: Called with the number of the signal.

        Raises:
            InvalidOption: this is not the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            raise InvalidOption("signals: make the agent in the main thread, or say signals=False")
        self._told = told
        self._owner = os.getpid()
        self._reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        self._closed = False
        self._earlier: dict[int, Any] = {number: signal.signal(number, self._handle) for number in HEARD}
        self._thread = threading.Thread(target=self._run, name="dcp-agent-signals", daemon=True)
        self._thread.start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._closed:
            # Whoever took the signal over may still call this: the pipe's number may be another file's by now.
            self._pass_on(number, frame)
            return
        if os.getpid() != self._owner:
            # A forked child, as DataLoader's workers are: the signal is for the child alone.
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        with suppress(BlockingIOError):  # the pipe is full of signals that are yet to be told
            os.write(self._writing, bytes([number]))

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        earlier = self._earlier[number]
        if callable(earlier):
            earlier(number, frame)
        elif earlier is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _run(self) -> None:
        while number := os.read(self._reading, 1):
            self._told(number[0])

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        if self._closed:
            return
        for number, handler in self._earlier.items():
            if signal.getsignal(number) == self._handle:
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self._closed = True
        os.close(self._writing)
        self._thread.join()
        os.close(self._reading)
