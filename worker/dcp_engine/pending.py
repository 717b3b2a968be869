"""The background save of this process: one at a time, and whoever looks at a checkpoint waits for it first.

A load that did not wait would find nothing, or, under `overwrite`, the old values without a word. This module alone
knows which save that is: `async_save` starts one, `save` and everything that reads asks here. Needs no torch.
"""

import os
import threading
from collections.abc import Callable
from os import PathLike, fspath
from pathlib import Path
from typing import Final

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.errors import InvalidOption
from dcp_engine.stores.options import place_of, protocol_of
from dcp_engine.translate import translate


class AsyncSave:
    """A save on its way. Every rank has one; `wait` ends the same way on each.

    Any thread may call its methods.
    """

    def __init__(self, url: str | PathLike[str]) -> None:
        self.url = fspath(url)
        """Where the checkpoint goes."""
        self._thread: threading.Thread | None = None
        self._finished = threading.Event()
        self._info: CheckpointInfo | None = None
        self._error: BaseException | None = None
        self._seen = False
        """Somebody was told how it ended."""

    def done(self) -> bool:
        """Tell whether the save has ended, well or not; takes no lock, so that a signal handler may ask."""
        return self._finished.is_set()

    def wait(self, timeout: float | None = None) -> CheckpointInfo:
        """Wait for the end of the save.

        Args:
            timeout: seconds to wait at most; None waits for as long as it takes.

        Returns:
            What was saved, on every rank.

        Raises:
            EngineError: the save failed; `rank` names the rank that failed first. The same on every rank.
            TimeoutError: it is still on its way after `timeout` seconds.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError
        self._seen = True
        if self._error is not None:
            raise self._error
        assert self._info is not None  # noqa: S101 - one of the two is set before the event
        return self._info

    def raise_unseen(self) -> None:
        """Wait, and raise an error that nobody has been told of yet."""
        self.await_end()
        if not self._seen:
            self.wait()

    def await_end(self) -> None:
        """Wait, and raise nothing: the error stays for whoever asks for the result."""
        self._finished.wait()

    def start(self, save: Callable[[], CheckpointInfo]) -> None:
        """Carry out the save in a thread of its own, as the background save of this process."""
        self._thread = threading.Thread(target=self._run, args=(save,), name="dcp-save")
        # Before it begins: a SIGTERM in between would find nothing to wait for.
        _last[:] = [(os.getpid(), self)]
        try:
            self._thread.start()
        except BaseException:
            _forget(self)
            raise

    def runs_in(self, thread: threading.Thread) -> bool:
        """Tell whether it is this thread that carries out the save."""
        return self._thread is thread

    def _run(self, save: Callable[[], CheckpointInfo]) -> None:
        try:
            self._info = save()
        except BaseException as error:  # noqa: BLE001 - raised again by wait
            self._error = translate(error)
        finally:
            self._finished.set()


_last: Final[list[tuple[int, AsyncSave]]] = []
"""One at most per process, as there is one process group, with the process that has its thread: a forked child has the
handle alone, and may be sent a signal before anything that it does at its start."""


def last() -> AsyncSave | None:
    """Return the last background save, unless its end was waited for, or it is this very thread that carries it out."""
    pid, thread = os.getpid(), threading.current_thread()
    return next((save for owner, save in _last if owner == pid and not save.runs_in(thread)), None)


def finish() -> None:
    """Wait for the background save, and raise its error if nobody saw it yet. In its own thread there is none."""
    if save := last():
        try:
            save.raise_unseen()
        finally:
            if save.done():
                _forget(save)


def wait_before(url: str | PathLike[str], *, raises: bool = False) -> None:
    """Wait for the background save before something is read at `url`.

    With `raises`, the error of a save to this very URL is raised if nobody saw it yet: what is read there would be
    taken for what that save should have written. The error of a save to another URL stays for whoever asks for it.
    """
    save = last()
    if save is None:
        return
    save.await_end()
    if raises and place(save.url) == place(fspath(url)):
        finish()


def _forget(save: AsyncSave) -> None:
    _last[:] = [noted for noted in _last if noted[1] is not save]


# A forked child would keep the copy of the state for as long as it lives.
os.register_at_fork(after_in_child=_last.clear)


def place(url: str) -> tuple[str, ...]:
    """Return the same for two spellings of one place."""
    try:
        protocol = protocol_of(url)
        if protocol == "file":
            return protocol, str(Path(url.partition("://")[2] if "://" in url else url).resolve())
        return protocol, *place_of(url)
    except InvalidOption:
        return (url,)
