"""Named points at which a test may kill or fail a rank. Nothing happens there unless a test sets `hook`."""

from collections.abc import Callable
from typing import Literal

Point = Literal[
    "planning", "mid-part", "before manifest", "before commit", "after commit", "before removal", "reading", "unlisted"
]

hook: Callable[[Point], None] | None = None


def reach(point: Point) -> None:
    """Call the hook, if a test set one in this process."""
    if hook:
        hook(point)
