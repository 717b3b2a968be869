"""What a rank shows its launcher while it works: a slot of shared memory with its stage, its bytes and its heartbeat.

Three kinds of standstill have to be told apart, since only one of them is to blame:

- a stopped process, or one whose GIL is held: its heartbeat thread stops as well;
- a rank that waits for its peers in a collective: it is a victim, and says so (`waiting`);
- a rank that does neither and still moves nothing: the culprit.
"""

import ctypes
import sys
import threading
import time
from types import FrameType
from typing import Final

_BEAT_SECONDS: Final = 0.25
_WRAPPERS: Final = ("torch/_ops.py", "torch/utils/_contextlib.py", "/contextlib.py")
"""Frames that stand between a caller and what it calls, and say nothing."""


class Slot(ctypes.Structure):
    """One rank's line in the memory that it shares with its launcher. Times are `time.monotonic()`, of one machine.

    Only the rank writes it, but for its first times; only the launcher reads it.
    """

    _fields_ = (
        ("stage", ctypes.c_char * 64),
        ("done", ctypes.c_longlong),
        ("total", ctypes.c_longlong),
        ("moved", ctypes.c_double),
        ("alive", ctypes.c_double),
        ("waiting", ctypes.c_bool),
        ("transfers", ctypes.c_bool),
    )


def start(slot: Slot) -> None:
    """Begin the heartbeat of the rank whose thread calls this; it lasts as long as the process."""
    slot.alive = slot.moved = time.monotonic()
    threading.Thread(target=_beat, args=(slot, threading.get_ident()), name="dcp-heartbeat", daemon=True).start()


def _beat(slot: Slot, main: int) -> None:
    while True:
        slot.waiting = _waits(sys._current_frames().get(main))  # noqa: SLF001 - the documented name
        slot.alive = time.monotonic()
        time.sleep(_BEAT_SECONDS)


def _waits(frame: FrameType | None) -> bool:
    """Return whether the thread is in a collective, or in a backward pass whose hooks may be.

    Only the innermost frame tells: a module that FSDP wraps has FSDP's frames further out, whatever it does itself.
    """
    while frame is not None and frame.f_code.co_filename.endswith(_WRAPPERS):
        frame = frame.f_back
    if frame is None:
        return False
    path = frame.f_code.co_filename
    return "torch/autograd/graph" in path or ("torch/distributed/" in path and "/distributed/checkpoint/" not in path)
