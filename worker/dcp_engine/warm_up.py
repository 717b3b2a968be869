"""What the first save or load of a process would otherwise do while training waits for it."""

import io
from collections.abc import Mapping
from importlib import import_module
from os import PathLike
from typing import Any, Final

import torch

from dcp_engine import inspection

_USED: Final = ("background", "loading", "saving", "stores.local_store", "transfer.reader", "transfer.writer")


def warm(url: str | PathLike[str] | None = None, *, storage_options: Mapping[str, Any] | None = None) -> None:
    """Import what saves and loads use, and, with a URL, ask its store once what is there, which connects.

    Not collective: any rank may call it at any time, best before the first step. Nothing is written.

    Args:
        url: where checkpoints will go: an fsspec URL or a path. None: only import.
        storage_options: options of the store that are no secret, by their neutral names
            (`dcp_contract.storage_options.STORAGE_OPTIONS`). Secrets come from the environment.

    Raises:
        EngineError: the URL can't be opened, or its store can't be asked.
    """
    for name in _USED:
        import_module(f"dcp_engine.{name}")
    torch.save(None, io.BytesIO())  # which imports at its first call
    if url is not None:
        inspection.find(url, storage_options=storage_options)
