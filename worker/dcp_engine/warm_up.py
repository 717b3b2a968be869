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
    """Import what saves and loads use, and, with a URL, open its store and look there once, which connects.

    Any rank may call it at any time, best before the first step; it is not collective. Nothing is written.

    Raises:
        EngineError: the URL can't be opened, or its store can't be asked.
    """
    for name in _USED:
        import_module(f"dcp_engine.{name}")
    torch.save(None, io.BytesIO())  # which imports at its first call
    if url is not None:
        inspection.find(url, storage_options=storage_options)
