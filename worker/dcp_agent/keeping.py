"""Which checkpoints of a run stay: after each commit rank 0 removes what no rule keeps."""

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import dcp_engine
from dcp_contract.retention import Retained, Retention, Verdict, judge
from dcp_engine.errors import EngineError

LOG: Final = logging.getLogger("dcp_agent")
_LAST_SECONDS: Final = 30.0
Keep = Retention
"""Which checkpoints stay: `last` so many, those at each multiple of `every_steps`, those committed `within` a time."""


class Remover:
    """Removes what no rule keeps, in a thread of its own: one removal at a time, and none waits for it but the end."""

    def __init__(
        self, prefix: str, keep: Keep, options: Mapping[str, Any] | None, may: Callable[[], bool] = lambda: True
    ) -> None:
        """Begin without a removal.

        Args:
            prefix: Where the run's checkpoints stand, as `step-<n>`.
            keep: The rules.
            options: Options of the store that are no secret.
            may: Asked before each removal: whether it is this training's to remove anything.
        """
        self._prefix, self._keep, self._options, self._may = prefix, keep, options, may
        self._lock = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def committed(self) -> None:
        """Look at what there is now; after the look under way, if there is one."""
        if not self._may():
            return
        with self._lock:
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dcp-agent-keep", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Wait for a removal on its way: what is half removed, nobody finds again."""
        thread = self._thread
        if thread is not None:
            thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        """Look for as long as commits come meanwhile: what the last one makes superfluous goes, too."""
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                self._wanted = False
            self._remove()

    def _remove(self) -> None:
        """Remove each checkpoint that no rule keeps. What can't be removed is said, and tried at the next commit."""
        try:
            found = dcp_engine.list_checkpoints(self._prefix, storage_options=self._options)
        except EngineError as error:
            LOG.warning("nothing is removed under %s, which can't be listed: %s", self._prefix, error)
            return
        # One without a save id is by another program.
        whole = [
            Retained(
                url=each.url, save_id=each.save_id, step=each.step, time=each.created_time, pinned=not each.save_id
            )
            for each in found
        ]
        for verdict in judge(whole, self._keep, datetime.now(UTC)):
            if not verdict.kept and self._may():
                self._remove_one(verdict)

    def _remove_one(self, verdict: Verdict) -> None:
        gone = verdict.checkpoint
        try:
            dcp_engine.delete(gone.url, gone.save_id, storage_options=self._options)
        except EngineError as error:
            LOG.warning("%s could not be removed: %s", gone.url, error)
        else:
            LOG.info("removed %s: %s", gone.url, ", ".join(verdict.reasons))
