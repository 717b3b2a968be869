"""What a rank answers: its Outcome, and its warnings."""

import logging
import sys
from dataclasses import dataclass
from typing import Final

from dcp_contract.checkpoint_info import CheckpointInfo, Conflict
from dcp_contract.reasons import Reason
from dcp_contract.report import RankFailure
from dcp_worker.training.failures import in_spec_words

TRACEBACK_CHARS: Final = 2000
_MAX_WARNINGS: Final = 8


@dataclass(frozen=True)
class Outcome:
    """How one rank ended; returned, never raised. Small enough for a pipe's buffer, so that sending never blocks."""

    rank: int
    result: Reason | None = None
    checkpoint: CheckpointInfo | None = None
    conflict: Conflict | None = None
    failures: tuple[RankFailure, ...] = ()
    """This rank's failure; after a collective engine call, those of all ranks, the first in time first."""
    failed_ranks: int = 0
    """How many ranks failed, where `failures` does not list them all."""
    warnings: tuple[str, ...] = ()
    bytes_moved: int = 0
    seconds: float = 0.0
    """Of the transfer alone."""


class Warnings(logging.Handler):
    """Keeps warnings of the engine and the worker: they change no result, and belong into the Report."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []
        for package in ("dcp_engine", "dcp_worker"):
            logging.getLogger(package).addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one, and print it as logging would without a handler."""
        text = in_spec_words(record.getMessage())
        print(f"warning: {text}", file=sys.stderr)  # noqa: T201 - the pod's log
        if text not in self.texts and len(self.texts) < _MAX_WARNINGS:
            self.texts.append(text)
