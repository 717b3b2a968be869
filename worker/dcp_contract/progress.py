"""A line of rank 0's output that says how far it is."""

import json
from typing import Final

from dcp_contract.message import Int, Real, Text, Wire

PROGRESS_KEY: Final = "dcpProgress"
"""A log line that is a JSON object with this one key is a Progress; every other line is the workload's own output."""


class Progress(Wire):
    """Where a running attempt stands; decoration, which may get lost."""

    stage: Text = ""
    bytes: Int = 0
    total_bytes: Int = 0
    bytes_per_second: Real = 0.0
    ranks: Int = 0
    """Ranks that are still moving bytes."""
    time: Real = 0.0

    @property
    def percent(self) -> int:
        """Whole percent of the bytes moved, 0 where the total is not known yet."""
        return min(100, max(0, 100 * self.bytes // self.total_bytes)) if self.total_bytes else 0

    def to_line(self) -> str:
        """Return the line of rank 0's output that says so: JSON with one key."""
        return json.dumps({PROGRESS_KEY: self.to_dict()})

    @classmethod
    def of_line(cls, line: str) -> "Progress | None":
        """Return the Progress that a line of output is, or None for the workload's own output."""
        if not line.startswith("{") or PROGRESS_KEY not in line:
            return None
        try:
            message = json.loads(line)
            return cls.model_validate(message[PROGRESS_KEY]) if [*message] == [PROGRESS_KEY] else None
        except (ValueError, RecursionError):
            return None
