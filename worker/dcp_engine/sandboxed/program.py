"""Reads pickles from the standard input.

    metadata BYTES SECONDS <.metadata    prints a manifest as JSON
    objects BYTES SECONDS <framed        prints one '+' for each pickle that does no harm

An exit status of 3 means that the last line printed says what is wrong.
"""

import gc
import os
import sys

from .described import manifest
from .entries import examine
from .limits import Refused, limit, refuse


def main(mode: str, size: str, seconds: str) -> None:
    """Limit this process, then read."""
    limit(int(size), int(seconds))
    gc.disable()
    try:
        if mode == "metadata":
            sys.stdout.write(manifest(sys.stdin.buffer.read()))
        else:
            for _ in examine(sys.stdin.buffer):
                sys.stdout.write("+")
                sys.stdout.flush()
    except MemoryError:
        refuse("it takes far more memory than what it says is worth")
    except Exception as error:  # noqa: BLE001 - whatever a pickle makes happen
        refuse(str(error) if isinstance(error, Refused) else f"{type(error).__name__}: {error}")
    sys.stdout.flush()
    # What is nested deeply need not be taken apart again.
    os._exit(0)
