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
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_BEAT_SECONDS: Final = 0.25
_WRAPPERS: Final = ("torch/_ops.py", "torch/utils/_contextlib.py", "/contextlib.py")
"""Frames that stand between a caller and what it calls, and say nothing."""


class Slot(ctypes.Structure):
    """One rank's line in the memory that it shares with its launcher. Times are `time.monotonic()`, of one machine."""

    _fields_ = (
        ("stage", ctypes.c_char * 64),
        ("done", ctypes.c_longlong),
        ("total", ctypes.c_longlong),
        ("moved", ctypes.c_double),
        ("alive", ctypes.c_double),
        ("waiting", ctypes.c_bool),
        ("transfers", ctypes.c_bool),
    )


class Pulse:
    """The rank's side of its slot. Only the rank writes; only the launcher reads."""

    def __init__(self, slot: Slot) -> None:
        self._slot = slot
        self._main = threading.get_ident()
        self._touch()
        self._slot.alive = self._slot.moved

    def start(self) -> None:
        """Begin the heartbeat, which lasts as long as the process."""
        threading.Thread(target=self._beat, name="dcp-heartbeat", daemon=True).start()

    @contextmanager
    def stage(self, name: str, *, transfers: bool = False) -> Iterator[None]:
        """Name what the rank does now. `transfers`: it moves bytes, so that standing still means something is wrong."""
        before = self.name, bool(self._slot.transfers)
        self._enter(name, transfers=transfers)
        yield
        # Not in a finally: after an error the stage says where it happened.
        self._enter(before[0], transfers=before[1])

    @property
    def name(self) -> str:
        """The stage that the rank is in."""
        return bytes(self._slot.stage).decode(errors="replace")

    @property
    def transferring(self) -> bool:
        """Whether the rank is in a stage that moves bytes."""
        return bool(self._slot.transfers)

    def moved(self, done: int, total: int) -> None:
        """Note this rank's bytes so far and in all; cheap, and callable from any thread."""
        self._slot.done, self._slot.total = done, total
        self._touch()

    def _enter(self, name: str, *, transfers: bool) -> None:
        self._slot.stage = name.encode()[:63]
        self._slot.transfers = transfers
        self._touch()

    def _touch(self) -> None:
        self._slot.moved = time.monotonic()

    def _beat(self) -> None:
        while True:
            self._slot.waiting = _waits(sys._current_frames().get(self._main))  # noqa: SLF001 - the documented name
            self._slot.alive = time.monotonic()
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
