"""Who stands still, and whose fault it is: pure over what the ranks' slots said at one moment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dcp_contract.progress import Progress
from dcp_worker.heartbeat import Slot

STILL_SECONDS: Final = 5.0
"""Without a heartbeat for this long a rank counts as stopped, once someone has to be blamed."""


@dataclass(frozen=True)
class Sight:
    """One rank as its slot shows it. Times are seconds before now."""

    rank: int
    stage: str
    silent: float
    """Since its last heartbeat: a stopped process, or a held GIL."""
    still: float
    """Since it last moved bytes, made a step, or entered a stage."""
    waiting: bool
    transfers: bool
    done: int = 0
    total: int = 0


def look(slot: Slot, rank: int, now: float) -> Sight:
    """Read a slot."""
    return Sight(
        rank=rank,
        stage=bytes(slot.stage).decode(errors="replace"),
        silent=max(0.0, now - slot.alive),
        still=max(0.0, now - slot.moved),
        waiting=slot.waiting,
        transfers=slot.transfers,
        done=slot.done,
        total=slot.total,
    )


def hung(sights: Sequence[Sight], seconds: float) -> list[Sight]:
    """Return the ranks that have hung: no heartbeat for `seconds`, or in a transfer without bytes for as long.

    A rank that waits in a collective is a victim. A long step of the workload is no hang: only the deadline ends it.
    """
    silent = [sight for sight in sights if sight.silent >= seconds]
    if silent:
        return silent
    return [sight for sight in sights if sight.transfers and sight.still >= seconds and not sight.waiting]


def culprits(sights: Sequence[Sight], seconds: float) -> list[Sight]:
    """Return whom to name when time is up: ranks without a heartbeat, else those that stand still and wait for none."""
    silent = [sight for sight in sights if sight.silent >= min(STILL_SECONDS, seconds)]
    return silent or [sight for sight in sights if sight.still >= seconds and not sight.waiting]


def describe(sight: Sight) -> str:
    """Say how a rank hung."""
    if sight.silent >= sight.still / 2:
        return f"no heartbeat for {sight.silent:.0f} s: the process is stopped or blocked"
    return f"no progress for {sight.still:.0f} s, and it waits for no other rank"


def progress(sights: Sequence[Sight], before: Progress | None, now: float) -> Progress:
    """Return where the ranks of this pod stand together; the rate is that since the Progress before."""
    done, total = sum(sight.done for sight in sights), sum(sight.total for sight in sights)
    slowest = max(sights, key=lambda sight: sight.still)
    rate = 0.0
    if before is not None and now > before.time and done >= before.bytes:
        rate = (done - before.bytes) / (now - before.time)
    moving = sum(sight.transfers and sight.done < sight.total for sight in sights)
    return Progress(stage=slowest.stage, bytes=done, total_bytes=total, bytes_per_second=rate, ranks=moving, time=now)
