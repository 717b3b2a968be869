"""What a scheduler reads on a training: when its newest checkpoint was committed. Pure, as all decisions are."""

from datetime import UTC, datetime, timedelta
from typing import Final

INTERVAL: Final = timedelta(minutes=1)
"""Between two writes to one object, at least: a training may save each few seconds, and others watch the object."""


def next_write(written: datetime | None, now: datetime) -> datetime:
    """Return when an object may be written, by when it was written last."""
    return now if written is None else max(now, written + INTERVAL)


def annotation_due(committed: datetime, ended: datetime, created: datetime, stands: str | None) -> str | None:
    """Return the value that an object is to have; None where it stays as it is.

    Args:
        committed: When the checkpoint was committed, as the training says.
        ended: When the Checkpoint had ended, by the operator's clock. Nothing was committed later.
        created: When the object was created. One that is younger than the save is another training of the same name.
        stands: What the object says now. It never goes back in time.
    """
    if ended < created:
        return None
    newest = min(committed, ended).astimezone(UTC).replace(microsecond=0)
    there = read_time(stands)
    return None if there is not None and there >= newest else newest.strftime("%Y-%m-%dT%H:%M:%SZ")


def read_time(text: str | None) -> datetime | None:
    """Return the time of an annotation; None where it is none that could be compared."""
    try:
        found = datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return found if found.tzinfo is not None else None
