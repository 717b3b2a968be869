"""Programs of their own process that copy: to be killed in the middle, and to be measured. They load no torch."""

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import dcp_engine
from dcp_engine import failpoints


def copy_in(
    environment: dict[str, str], source: str, given: Any, destination: str, options: Any, limit: int = 256 << 20
) -> None:
    """Copy, in a process that may be killed from outside."""
    os.environ.update(environment)
    dcp_engine.copy(source, destination, source_options=given, storage_options=options, memory_limit=limit)


def copy_until(
    environment: dict[str, str],
    source: str,
    given: Any,
    destination: str,
    options: Any,
    point: str,
    count: int,
    limit: int = 256 << 20,
) -> None:
    """Copy, and be killed when a point is reached for the n-th time."""
    reached = 0

    def hook(at: failpoints.Point) -> None:
        nonlocal reached
        reached += at == point
        if reached == count:
            os.kill(os.getpid(), signal.SIGKILL)

    failpoints.hook = hook
    copy_in(environment, source, given, destination, options, limit)


if __name__ == "__main__":
    # Tells the bytes of memory that this whole process took at most, and whether it loaded torch.
    copy_in({}, *json.loads(sys.argv[1]))
    status = Path("/proc/self/status").read_text()
    print(json.dumps([int(status.partition("VmHWM:")[2].split()[0]) << 10, "torch" in sys.modules]))
