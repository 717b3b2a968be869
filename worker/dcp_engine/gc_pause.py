"""No cyclic garbage collection while millions of objects come to be, none of which is garbage.

Each pass of the collector looks at all objects there are: unpickling the metadata of two million chunks takes five
times as long with it as without.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Suspend the collector of this process; it goes on afterwards if it was on."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
