"""Pods of this machine: one `python -m dcp_worker` process with its ranks, seen as a Pod would be seen."""

import contextlib
import io
import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Final

from dcp_contract.environment import TERMINATION_LOG_ENV
from dcp_contract.progress import Progress
from dcp_contract.report import Report

GRACE_SECONDS: Final = 30.0
"""Between SIGTERM and SIGKILL, as a Pod's terminationGracePeriodSeconds."""
DRAIN_SECONDS: Final = 5.0
"""For what the pod printed to be read once it has ended. A process that left its group may hold the pipe for ever."""
KEPT_LINES: Final = 40
"""Output lines kept of a pod, to be shown if it fails."""


def start(environment: Mapping[str, str]) -> "subprocess.Popen[str]":
    """Start a pod's first process, its standard output and error in one pipe. Tests have it forked instead.

    Args:
        environment: Its whole environment.
    """
    return subprocess.Popen(
        # -P: nothing is imported from the current folder, whatever its files are called.
        [sys.executable, "-P", "-m", "dcp_worker"],
        env=dict(environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group of its own: the terminal's Ctrl-C must not reach the ranks beside us, and ranks that outlive their
        # launcher can be found.
        start_new_session=True,
    )


class Process:
    """One node of an attempt.

    Args:
        node: Which node of the attempt this is, from 0.
        environment: The whole environment of the process, secrets included.
        folder: Where its Report goes.
        now: The clock.
        changed: Called from another thread whenever something that can be observed has changed.
        output: Called from another thread with every line that is not progress.
    """

    def __init__(
        self,
        node: int,
        *,
        environment: Mapping[str, str],
        folder: Path,
        now: Callable[[], datetime],
        changed: Callable[[], None],
        output: Callable[[int, str], None],
    ) -> None:
        self.node = node
        self.created = now()
        self.finished: datetime | None = None
        self.exit_code: int | None = None
        self.progress: Progress | None = None
        self.lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._now = now
        self._changed = changed
        self._output = output
        self._report = folder / f"report-{node}.json"
        self._kill: threading.Timer | None = None
        self._process = start({**environment, TERMINATION_LOG_ENV: str(self._report)})
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._waiter = threading.Thread(target=self._wait, daemon=True)
        self._reader.start()
        self._waiter.start()

    @property
    def report(self) -> Report | None:
        """The Report, once the process has ended; None if there is none or it is torn."""
        if self.finished is None:
            return None
        try:
            return Report.decode(self._report.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError):
            return None

    def terminate(self) -> None:
        """Ask the process to stop, as the kubelet does; kill it if it does not within GRACE_SECONDS."""
        if self.finished is None and self._kill is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
            self._kill = threading.Timer(GRACE_SECONDS, self.kill)
            self._kill.daemon = True
            self._kill.start()

    def kill(self) -> None:
        """Kill the process and its ranks, if there are any."""
        if self.finished is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def join(self) -> None:
        """Wait until the process has ended and all that it printed till then is read."""
        self._waiter.join()

    def _read(self) -> None:
        with self._process.stdout or io.StringIO() as printed:
            for text in printed:
                line = text.rstrip("\n")
                progress = Progress.of_line(line)
                if progress is None:
                    self.lines.append(line)
                    self._output(self.node, line)
                else:
                    self.progress = progress
                    self._changed()

    def _wait(self) -> None:
        code = self._process.wait()
        # As in a container, whose processes end with its first: ranks that lost their launcher must not live on.
        self.kill()
        self._reader.join(DRAIN_SECONDS)
        if self._kill is not None:
            self._kill.cancel()
        self.exit_code = code if code >= 0 else 128 - code
        self.finished = self._now()
        self._changed()
