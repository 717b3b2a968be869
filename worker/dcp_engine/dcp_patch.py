"""Calls of stock `torch.distributed.checkpoint`, carried out by this engine: for programs that hard-wire its writers.

accelerate and Lightning, for two, call `dcp.save(state, storage_writer=FileSystemWriter(path))`, and torch has no hook
there. So its functions are replaced where torch keeps them, for as long as a `with` block lasts.
"""

import functools
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from os import PathLike, fspath
from types import ModuleType
from typing import Any, Final, cast

import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemReader, FileSystemWriter, state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.filesystem import SerializationFormat
from torch.distributed.checkpoint.state_dict_saver import AsyncSaveResponse

from dcp_contract.checkpoint_info import CheckpointInfo
from dcp_engine.background import async_save
from dcp_engine.errors import EngineError
from dcp_engine.loading import load
from dcp_engine.pending import AsyncSave
from dcp_engine.saving import save

Place = str | PathLike[str]

_HOMES: Final = {"save": state_dict_saver, "async_save": state_dict_saver, "load": state_dict_loader}
"""Where torch defines each function. `torch.distributed.checkpoint` has them, too."""
_LOST_SLASH: Final = re.compile(r"^([a-z][a-z0-9+.-]+):/(?=[^/])")
"""A FileSystemWriter keeps a URL as a path, which makes s3:/bucket of s3://bucket."""


@contextmanager
def patched_dcp(
    *,
    url_of: Callable[[str], Place] = str,
    overwrite: bool | None = None,
    save_options: Mapping[str, Any] | None = None,
    load_options: Mapping[str, Any] | None = None,
) -> Iterator[None]:
    """Have `dcp.save`, `dcp.async_save` and `dcp.load` of torch go through this engine while the block lasts.

    Every rank enters it. Taken over are calls that name a place alone: by `checkpoint_id`, or by a FileSystemWriter or
    FileSystemReader without extensions. A call with any other writer or reader, a subclass too, stays torch's. A name
    that a program imported from torch before the block is not replaced.

    `save` returns a CheckpointInfo in place of torch's Metadata, and the future of `async_save` has one as its result.
    What fails raises an EngineError in place of torch's CheckpointException.

    Blocks may lie within one another, and overlap in threads: they are the process's, and the one entered last counts.

    Args:
        url_of: where the checkpoint stands whose place the program names so; the same answer on every rank. A program
            that makes folders for its checkpoints needs paths, and this maps them to a store.
        overwrite: whether a save replaces what is committed there. None: as the writer says; stock DCP's default is to
            replace.
        save_options: further options of each `dcp_engine.save` and `dcp_engine.async_save`.
        load_options: further options of each `dcp_engine.load`.
    """
    calls = _Calls(url_of, overwrite, dict(save_options or {}), dict(load_options or {}))
    try:
        _enter(calls)
        yield
    finally:
        _leave(calls)


class _Calls:
    """What stands in for torch's functions: each takes the one that it stands for, and what that is called with."""

    def __init__(
        self,
        url_of: Callable[[str], Place],
        overwrite: bool | None,  # noqa: FBT001 - None is the third value
        save_options: dict[str, Any],
        load_options: dict[str, Any],
    ) -> None:
        self._url_of = url_of
        self._overwrite = overwrite
        self._save_options = save_options
        self._load_options = load_options

    def save(self, stock: Callable[..., Any], state_dict: dict[str, Any], **options: Any) -> Any:  # noqa: ANN401 - torch's
        writer = options.get("storage_writer")
        place = _place(options.get("checkpoint_id"), writer, FileSystemWriter)
        if place is None:
            return stock(state_dict, **options)
        return save(state_dict, self._url(place), **self._saving(writer, options))

    def async_save(self, stock: Callable[..., Any], state_dict: dict[str, Any], **options: Any) -> Any:  # noqa: ANN401 - torch's
        writer = options.get("storage_writer")
        place = _place(options.get("checkpoint_id"), writer, FileSystemWriter)
        if place is None:
            return stock(state_dict, **options)
        future = _SaveFuture(async_save(state_dict, self._url(place), **self._saving(writer, options)))
        if options.get("async_stager") is None:
            return future
        # The engine has its own copy by now. Whoever brings a stager asks when the state may change again.
        staged: Future[None] = Future()
        staged.set_result(None)
        # torch itself completes it with Metadata, whatever its annotation says.
        return AsyncSaveResponse(staging_completion=staged, upload_completion=cast("Future[None]", future))

    def load(self, stock: Callable[..., Any], state_dict: dict[str, Any], **options: Any) -> None:  # noqa: ANN401 - torch's
        place = _place(options.get("checkpoint_id"), options.get("storage_reader"), FileSystemReader)
        if place is None:
            stock(state_dict, **options)
        else:
            load(state_dict, self._url(place), **self._load_options, **_shared(options))

    def _url(self, place: str) -> Place:
        return self._url_of(_LOST_SLASH.sub(r"\1://", place))

    def _saving(self, writer: FileSystemWriter | None, options: dict[str, Any]) -> dict[str, Any]:
        said = writer is None or writer.overwrite
        overwrite = said if self._overwrite is None else self._overwrite
        return {"overwrite": overwrite, **self._save_options, **_shared(options)}


_lock: Final = threading.Lock()
_entered: Final[list[_Calls]] = []
"""Of the blocks that last, the one entered last at the end."""
_stock: Final[list[tuple[ModuleType, str, Callable[..., Any]]]] = []
"""What stood where, while there is such a block."""


def _enter(calls: _Calls) -> None:
    with _lock:
        _entered.append(calls)
        if not _stock:
            _stock[:] = [
                (module, name, getattr(module, name)) for name, home in _HOMES.items() for module in (home, dcp)
            ]
            for module, name, stock in _stock:
                setattr(module, name, _stand_in(name, stock))


def _leave(calls: _Calls) -> None:
    """End a block, whichever of those that last it is; put torch's functions back with the last one."""
    with _lock:
        _entered[:] = [each for each in _entered if each is not calls]
        if not _entered:
            for module, name, stock in _stock:
                setattr(module, name, stock)
            _stock.clear()


def _stand_in(name: str, stock: Callable[..., Any]) -> Callable[..., Any]:
    """Return what stands in for a function of torch: whoever keeps it beyond the block has torch's."""

    @functools.wraps(stock)
    def call(*args: Any, **options: Any) -> Any:  # noqa: ANN401 - torch's
        with _lock:
            calls = _entered[-1] if _entered else None
        return stock(*args, **options) if calls is None else getattr(calls, name)(stock, *args, **options)

    return call


class _SaveFuture(Future[CheckpointInfo]):
    """A background save as torch's callers know one. An error counts as seen only once somebody asks for it."""

    def __init__(self, pending: AsyncSave) -> None:
        super().__init__()
        self._pending = pending
        self.set_running_or_notify_cancel()
        threading.Thread(target=self._follow, name="dcp-save-future", daemon=True).start()

    def result(self, timeout: float | None = None) -> CheckpointInfo:
        return self._pending.wait(timeout)

    def exception(self, timeout: float | None = None) -> EngineError | None:
        try:
            self._pending.wait(timeout)
        except EngineError as error:
            return error
        return None

    def _follow(self) -> None:
        self._pending.await_end()
        # For `done` and the callbacks alone: what is asked for comes from the save itself.
        self.set_exception(None)


def _place(checkpoint_id: Place | None, plug: Any, stock: type) -> str | None:  # noqa: ANN401 - a writer or a reader
    """Return the place that a call names; None if it names something else, too, which only torch can do."""
    if plug is None:
        return None if checkpoint_id is None else fspath(checkpoint_id)
    if type(plug) is not stock or not _is_plain(plug):
        return None
    path: Place = cast("Any", plug).path
    return fspath(path if checkpoint_id is None else checkpoint_id)


def _is_plain(plug: Any) -> bool:  # noqa: ANN401 - a writer or a reader
    """Return whether a writer or reader of torch changes no bytes on their way."""
    kept_format = getattr(plug, "serialization_format", SerializationFormat.TORCH_SAVE)
    return kept_format is SerializationFormat.TORCH_SAVE and not getattr(plug.transforms, "extensions", ())


def _shared(options: dict[str, Any]) -> dict[str, Any]:
    """Return the options that mean the same here and there. How torch would copy or gather is left out."""
    return {name: options[name] for name in ("planner", "process_group", "no_dist") if name in options}
