"""Counts the bytes that a rank has moved, for a progress callback."""

import threading

from dcp_engine.call_options import ProgressCallback


class Meter:
    """A thread-safe count with a callback; never says more than all."""

    def __init__(self, total: int, on_progress: ProgressCallback | None) -> None:
        self._total = total
        self._done = 0
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self.add(0)

    def add(self, count: int) -> None:
        """Note that some more bytes have moved."""
        with self._lock:
            self._done = min(self._total, self._done + count)
            if self._on_progress:
                self._on_progress(self._done, self._total)
