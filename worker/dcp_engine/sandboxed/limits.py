"""The process that reads what anybody may have written has little memory and little time, and says why it ends."""

import os
import resource
import sys
from typing import NoReturn

REFUSED = 3
"""The exit status with which a pickle is refused."""


class Refused(Exception):
    """The pickle holds what no writer of checkpoints writes."""


def limit(size: int, seconds: int) -> None:
    """Limit this process to bytes of address space and seconds of processor time."""
    for kind, most in (
        (resource.RLIMIT_AS, size),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(kind)
        resource.setrlimit(kind, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def refuse(why: str) -> NoReturn:
    """Say why, and end at once."""
    sys.stdout.flush()
    os.write(1, f"\n{why[:500]}".encode("utf-8", "backslashreplace"))
    os._exit(REFUSED)
