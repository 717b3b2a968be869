"""What the engine is measured against: its figure over a peer's, for every place. Printed, never asserted."""

from collections.abc import Iterator
from typing import Any, Final

OURS: Final = "dcp-operator"
STOCK: Final = "stock DCP, thread_count=1"
CONNECTOR: Final = "s3torchconnector[dcp]"
RAW: Final = "raw obstore"
RAW_OBJECTS: Final = "raw obstore, 32 MiB objects"

RATIOS: Final = {
    "s3": (
        ("save_MBps", RAW, 0.9),
        ("save_MBps", RAW_OBJECTS, 0.9),
        ("save_MBps", CONNECTOR, 1.0),
        ("save_MBps", STOCK, 2.0),
        ("load_MBps", RAW, 0.85),
        ("load_MBps", RAW_OBJECTS, 0.85),
        ("load_MBps", CONNECTOR, 1.5),
        ("load_MBps", STOCK, 4.0),
    ),
    "s3, far": (
        ("save_MBps", RAW, 0.9),
        ("save_MBps", RAW_OBJECTS, 0.9),
        ("save_MBps", CONNECTOR, 1.0),
        ("save_MBps", STOCK, 3.0),
        ("load_MBps", RAW, 0.85),
        ("load_MBps", RAW_OBJECTS, 0.85),
        ("load_MBps", CONNECTOR, 1.15),
        ("load_MBps", STOCK, 10.0),
    ),
    "local": (("save_MBps", STOCK, 1.5), ("load_MBps", STOCK, 1.2)),
}
"""Per place: figure, peer, and how many times the peer's ours has to be, at least."""
CPU_SHARE: Final = 1 / 3
"""Of stock's CPU seconds per GiB saved to a store, at most."""
PEAK_MIB: Final = 400


def verdicts(rows: list[dict[str, Any]], place: str) -> Iterator[str]:
    """Yield a line per goal for the rows of one case at a place."""
    by_system = {row["system"]: row for row in rows}
    ours = by_system[OURS]
    for figure, peer, goal in RATIOS[place]:
        ratio = ours[figure] / by_system[peer][figure]
        yield _line(f"{figure.removesuffix('_MBps')} / {peer}", ratio, ">=", goal, met=ratio >= goal)
    if place != "local":
        share = ours["save_cpu_s_per_GiB"] / by_system[STOCK]["save_cpu_s_per_GiB"]
        yield _line(f"CPU of a save / {STOCK}", share, "<=", CPU_SHARE, met=share <= CPU_SHARE)
    peak = ours["peak_extra_MiB"]
    yield _line("peak extra MiB", peak, "<=", PEAK_MIB, met=peak <= PEAK_MIB)


def _line(what: str, value: float, sign: str, goal: float, *, met: bool) -> str:
    return f"  {'met' if met else 'MISSED':<7} {what:<42} {value:>7.2f} {sign} {goal:.2f}"
