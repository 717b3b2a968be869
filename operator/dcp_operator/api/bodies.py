"""What bodies of any kind are read with: conditions, times, and texts that thousands of them share."""

from datetime import datetime
from functools import lru_cache
from typing import cast

from dcp_operator.api.json_types import ReadBody


@lru_cache(maxsize=8192)
def shared(text: str) -> str:
    """Return the same object for the same text: thousands of pods say the same of their attempt.

    Not by sys.intern: Python 3.12 keeps what is interned for ever, and anybody may write labels.
    """
    return text


def condition(status: ReadBody, kind: str, wanted: str = "True") -> ReadBody | None:
    """Return the condition of a status if it stands as wanted."""
    for each in status.get("conditions") or ():
        if each.get("type") == kind and each.get("status") == wanted:
            return cast("ReadBody", each)
    return None


def time_of(text: str) -> datetime:
    """Return a time as the API server writes it."""
    return datetime.fromisoformat(text)


def optional_time(text: str | None) -> datetime | None:
    """Return the time; a container that could not start "started" in 1970, which is no time."""
    return time_of(text) if text and not text.startswith("1970-") else None
