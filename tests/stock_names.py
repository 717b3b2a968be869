"""PyTorch's own names for storage, which lead to the engine: what is written for stock DCP runs on it unchanged."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from os import PathLike
from typing import Any, Final
from unittest import mock

import dcp_engine

_MODULES: Final = (
    "torch.distributed.checkpoint",
    "torch.distributed.checkpoint.filesystem",
    "torch.distributed.checkpoint.fsspec_filesystem",
    "torch.distributed.checkpoint._storage_utils",
    "torch.distributed.checkpoint.format_utils",
)
_SWALLOWED: Final = (
    "single_file_per_rank",
    "sync_files",
    "thread_count",
    "per_thread_copy_ahead",
    "cache_staged_state_dict",
    "enable_write_crc32",
)
"""How stock's writer goes about it: the engine has its own ways, and no value of these changes what is saved."""


class FileSystemWriter(dcp_engine.CheckpointWriter):
    """Stock's parameters, and its default of replacing what stands there."""

    def __init__(self, path: str | PathLike[str], *, overwrite: bool = True, **options: Any) -> None:
        for name in _SWALLOWED:
            options.pop(name, None)
        super().__init__(path, overwrite=overwrite, **options)


class FileSystemReader(dcp_engine.CheckpointReader):
    """Stock's parameter."""

    def __init__(self, path: str | PathLike[str], **options: Any) -> None:
        super().__init__(path, **options)


class FsspecWriter(FileSystemWriter):
    """A name of its own, as stock has it: of two with one name DCP asks the first alone."""


class FsspecReader(FileSystemReader):
    """As above."""


@contextmanager
def lead_to_the_engine() -> Iterator[None]:
    """Let stock's names mean the engine's classes."""
    names = {each.__name__: each for each in (FileSystemWriter, FileSystemReader, FsspecWriter, FsspecReader)}
    with ExitStack() as patched:
        for module in map(_imported, _MODULES):
            for name, each in names.items():
                if hasattr(module, name):
                    patched.enter_context(mock.patch.object(module, name, each))
        yield


def _imported(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:  # torch 2.13
        return import_module(name.replace(".fsspec", "._fsspec"))
