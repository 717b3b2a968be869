"""`async_save`: training goes on while the bytes travel.

The caller is held up only for the copy to host memory. One save at a time is on its way: the next one, and every plain
`save`, waits for it first and raises its error, so that no save overtakes another's commit and no failure is lost. The
collectives of the background run over a gloo group of their own, apart from those of the training.
"""

import threading
from collections.abc import Callable, Mapping
from functools import partial
from os import PathLike, fspath
from typing import Any

import torch.distributed as dist
from torch.utils._pytree import tree_leaves

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine import api, process_end
from dcp_engine.collective.ranks import PATIENCE_SECONDS, Ranks
from dcp_engine.commit import pending
from dcp_engine.transfer import devices, staging
from dcp_engine.translate import translate


class AsyncSave:
    """A save on its way. Every rank has one; `wait` ends the same way on each."""

    def __init__(self, url: str | PathLike[str]) -> None:
        self.url = fspath(url)
        self.thread: threading.Thread | None = None
        self._finished = threading.Event()
        self._info: CheckpointInfo | None = None
        self._error: BaseException | None = None
        self._seen = False

    def done(self) -> bool:
        """Tell whether the save has ended, well or not."""
        return self._finished.is_set()

    def wait(self, timeout: float | None = None) -> CheckpointInfo:
        """Return what was saved, or raise the EngineError that names the rank that failed.

        Raises:
            TimeoutError: it is still on its way after `timeout` seconds.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError
        self._seen = True
        if self._error is not None:
            raise self._error
        assert self._info is not None  # noqa: S101 - one of the two is set before the event
        return self._info

    def settle(self) -> None:
        """Wait, and raise an error that nobody has been told of yet."""
        self.await_end()
        if not self._seen:
            self.wait()

    def await_end(self) -> None:
        """Wait, and raise nothing: the error stays for whoever asks for the result."""
        self._finished.wait()

    def _run(
        self,
        on_device: Callable[[], None],
        state: Mapping[str, Any],
        url: str | PathLike[str],
        ranks: Ranks,
        options: dict[str, Any],
    ) -> None:
        try:
            on_device()
            self._info = api.save_now(state, url, ranks, **options)
        except BaseException as error:  # noqa: BLE001 - raised again by wait
            self._error = translate(error)
        finally:
            self._finished.set()


def async_save(
    state_dict: Mapping[str, Any],
    url: str | PathLike[str],
    *,
    process_group: dist.ProcessGroup | None = None,
    patience: float = PATIENCE_SECONDS,
    no_dist: bool = False,
    **options: Any,  # noqa: ANN401 - those of save
) -> AsyncSave:
    """Copy the state to host memory, return, and save it in the background; takes what `save` takes.

    Collective, as `save` is: it returns once every rank has its copy. Waits first for an earlier save that is still on
    its way, and raises its error. Whatever reads a checkpoint in this process (`load`, `find`, `inspect`, `verify`,
    `clean`, both preflights) waits for the save, too; a `load` or `verify` of the same URL raises its error. A program
    that ends without a wait ends the save first; an error that nobody has seen then makes its exit code 1. For SIGTERM
    see `finish_on_sigterm`.
    """
    staged: dict[str, Any] = {}

    def stage() -> None:
        pending.settle()
        process_end.watch()
        staged.update(_stage({key: api.plain(value) for key, value in state_dict.items()}))

    # What fails on one rank fails on all, so that none of them goes on to another save than the others.
    Ranks(process_group, patience=patience, no_dist=no_dist).agree("staging", stage)
    # Not by the thread: ranks that make this group and one of the caller's in different orders would never meet.
    ranks = Ranks(process_group, use="background", patience=patience, no_dist=no_dist)
    handle = AsyncSave(url)
    run = partial(handle._run, devices.own_device(), staged, url, ranks, options)  # noqa: SLF001
    handle.thread = threading.Thread(target=run, name="dcp-save")
    # Before it begins: a SIGTERM in between would find nothing to wait for.
    pending.begin(handle)
    try:
        handle.thread.start()
    except BaseException:
        pending.drop(handle)
        raise
    return handle


def _stage(values: dict[str, Any]) -> dict[str, Any]:
    """Copy all tensors to host memory, as they are once all that is queued on their devices is done."""
    api.refuse_unsavable(values)
    used = devices.of(tree_leaves(values))
    devices.synchronize(used)
    staged = staging.copied(values, pinned=any(device.type == "cuda" for device in used))
    devices.synchronize(used)
    return staged
