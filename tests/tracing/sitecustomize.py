"""Notes each call from one of our modules to another, in every process that Python starts with this on PYTHONPATH.

`trace_save` says where to: DCP_TRACE names a folder. A forkserver itself is not traced, the ranks that it forks are.
"""

import dis
import inspect
import json
import os
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

OURS = ("dcp_contract", "dcp_engine", "dcp_operator", "dcp_worker")
SUSPENDS = inspect.CO_GENERATOR | inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR

calls: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
"""Thread -> (calling module, called module, called function), in order."""
_first: dict[CodeType, int] = {}


def note(frame: FrameType, event: str, _: object) -> None:
    """Take in an event of the profiler."""
    if event != "call":
        return
    called = module_of(frame)
    if called is None or frame.f_code.co_name == "<module>" or is_resumed(frame):
        return
    back = frame.f_back
    while back is not None and module_of(back) is None:
        if back.f_code.co_filename.startswith("<frozen importlib"):
            return
        back = back.f_back
    if back is not None and back.f_code.co_name == "<module>" and module_of(back) != "dcp_worker.__main__":
        return
    calling = module_of(back) if back is not None else None
    if calling != called:
        calls[threading.current_thread().name].append((calling or "", called, frame.f_code.co_qualname))


def module_of(frame: FrameType) -> str | None:
    """Return our module that a frame's code stands in; None for another's, and for what dataclasses generate."""
    if frame.f_code.co_filename.startswith("<"):
        return None
    name = str(frame.f_globals.get("__name__", ""))
    if name == "__main__":
        spec = frame.f_globals.get("__spec__")
        name = spec.name if spec is not None else ""
    return name if name.partition(".")[0] in OURS else None


def is_resumed(frame: FrameType) -> bool:
    """Tell whether a generator or a coroutine goes on, which is no call."""
    code = frame.f_code
    if not code.co_flags & SUSPENDS:
        return False
    if code not in _first:
        _first[code] = next(each.offset for each in dis.get_instructions(code) if each.opname == "RESUME")
    return frame.f_lasti > _first[code]


def start(what: str) -> None:
    """Begin to take notes in this process."""
    calls.clear()
    threading.setprofile(note)
    sys.setprofile(note)
    leave = os._exit

    def exit_noted(code: int) -> Any:
        write(what)
        leave(code)

    os._exit = exit_noted  # type: ignore[assignment] # a rank leaves by it


def write(what: str) -> None:
    sys.setprofile(None)
    path = Path(os.environ["DCP_TRACE"]) / f"{what}-{os.getpid()}.json"
    path.write_text(json.dumps(calls))


def _begin() -> None:
    if "DCP_TRACE" not in os.environ or "DCP_TASK" not in os.environ:
        return
    command = " ".join(sys.orig_argv)
    if "forkserver" in command:
        os.register_at_fork(after_in_child=lambda: start("rank"))
    elif "-m dcp_worker" in command:
        import atexit

        start("launcher")
        atexit.register(write, "launcher")


_begin()
