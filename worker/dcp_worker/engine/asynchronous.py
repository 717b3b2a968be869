"""`async_save`: training goes on while the bytes travel.

The caller is held up only for the copy to host memory. One save at a time is on its way: the next one, and every plain
`save`, waits for it first and raises its error, so that no save overtakes another's commit and no failure is lost. The
collectives of the background run over a gloo group of their own, apart from those of the training.
"""

import threading
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

from dcp_worker.contract import CheckpointInfo
from dcp_worker.engine import api
from dcp_worker.engine.errors import translate


class AsyncSave:
    """A save on its way. Every rank has one; `wait` ends the same way on each."""

    def __init__(self) -> None:
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
        self._finished.wait()
        if not self._seen:
            self.wait()

    def _run(self, state_dict: Mapping[str, Any], url: str | PathLike[str], options: dict[str, Any]) -> None:
        try:
            self._info = api.save_now(state_dict, url, **options)
        except BaseException as error:  # noqa: BLE001 - raised again by wait
            self._error = translate(error)
        finally:
            self._finished.set()


def async_save(
    state_dict: Mapping[str, Any],
    url: str | PathLike[str],
    *,
    process_group: dist.ProcessGroup | None = None,
    **options: Any,  # noqa: ANN401 - those of save
) -> AsyncSave:
    """Copy the state to host memory, return, and save it in the background; takes what `save` takes.

    Collective, as `save` is. Waits first for an earlier save that is still on its way, and raises its error.
    """
    api.settle()
    staged = _stage(state_dict)
    handle = AsyncSave()
    api.pending = handle
    options["process_group"] = _own_group(process_group)
    # No daemon: a program that ends without a wait still ends its save.
    threading.Thread(target=handle._run, args=(staged, url, options), name="dcp-save").start()  # noqa: SLF001
    return handle


def _stage(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    stager = DefaultStager(
        StagingOptions(
            use_pinned_memory=cuda, use_shared_memory=False, use_async_staging=False, use_non_blocking_copy=cuda
        )
    )
    try:
        staged = stager.stage({key: api.plain(value) for key, value in state_dict.items()})
        assert isinstance(staged, dict)  # noqa: S101 - a Future only with async staging
        return staged
    finally:
        stager.close()


_groups: dict[dist.ProcessGroup | None, dist.ProcessGroup] = {}


def _own_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """Return a gloo group of the same ranks that nobody else uses; made once, by all of them."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    if group not in _groups:
        ranks = dist.get_process_group_ranks(group)
        made = dist.new_group(ranks, backend="gloo", use_local_synchronization=group is not None)
        assert isinstance(made, dist.ProcessGroup)  # noqa: S101 - this rank is a member
        _groups[group] = made
    return _groups[group]
