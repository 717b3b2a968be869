"""The background save of this process: one at a time, and whoever looks at a checkpoint waits for it first.

A load that did not wait would find nothing, or, under `overwrite`, the old values without a word. Needs no torch.
"""

import os
import threading
from os import PathLike, fspath
from pathlib import Path
from typing import Final, Protocol

from dcp_engine.errors import InvalidOption
from dcp_engine.stores.options import place_of, protocol_of


class BackgroundSave(Protocol):
    """A save that may still be on its way."""

    url: str
    thread: threading.Thread | None
    """Which carries it out."""

    def done(self) -> bool:
        """Tell whether it has ended, well or not; takes no lock, so that a signal handler may ask."""

    def settle(self) -> None:
        """Wait for it, and raise its error if nobody saw it yet."""

    def await_end(self) -> None:
        """Wait for it, and raise nothing."""


_last: Final[list[tuple[int, BackgroundSave]]] = []
"""One at most per process, as there is one process group, with the process that has its thread: a forked child has the
handle alone, and may be sent a signal before anything that it does at its start."""


def begin(save: BackgroundSave) -> None:
    """Note the save that is on its way from now on; the one before has been settled."""
    _last[:] = [(os.getpid(), save)]


def drop(save: BackgroundSave) -> None:
    """Forget a save that never began."""
    _last[:] = [noted for noted in _last if noted[1] is not save]


def last() -> BackgroundSave | None:
    """Return the last save, on its way or not settled, unless it is this very thread that carries it out."""
    pid, thread = os.getpid(), threading.current_thread()
    return next((save for owner, save in _last if owner == pid and save.thread is not thread), None)


def settle() -> None:
    """Wait for the background save, and raise its error if nobody saw it yet."""
    if save := last():
        try:
            save.settle()
        finally:
            if save.done():
                drop(save)


def wait_before(url: str | PathLike[str], *, raises: bool = False) -> None:
    """Wait for the background save before something is read at `url`.

    With `raises`, the error of a save to this very URL is raised if nobody saw it yet: what is read there would be
    taken for what that save should have written. The error of a save to another URL stays for whoever asks for it.
    """
    save = last()
    if save is None:
        return
    save.await_end()
    if raises and _place(save.url) == _place(fspath(url)):
        settle()


# A forked child would keep the copy of the state for as long as it lives.
os.register_at_fork(after_in_child=_last.clear)


def _place(url: str) -> tuple[str, ...]:
    """Return the same for two spellings of one place."""
    try:
        protocol = protocol_of(url)
        if protocol == "file":
            return protocol, str(Path(url.partition("://")[2] if "://" in url else url).resolve())
        return protocol, *place_of(url)
    except InvalidOption:
        return (url,)
