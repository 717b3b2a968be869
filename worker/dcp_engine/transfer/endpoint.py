"""What DCP asks alike of a StorageWriter and of a StorageReader: where the checkpoint is, and how to travel."""

from abc import ABC, abstractmethod
from os import PathLike, fspath
from typing import Any

from dcp_engine.call_options import LoadOptions, SaveOptions
from dcp_engine.stores.opening import can_open, open_store
from dcp_engine.stores.protocol import Store


class StorageEndpoint(ABC):
    """An open store and the options of what is done there; a save or load begins with `begin`."""

    store: Store

    def __init__(self, url: str, options: SaveOptions | LoadOptions) -> None:
        super().__init__()
        self.store = open_store(url, options.storage_options)
        self._storage_options = options.storage_options
        self.begin()

    @abstractmethod
    def begin(self) -> None:
        """Begin a save or a load of its own at `store`: nothing of the last one is left."""

    def reset(self, checkpoint_id: str | PathLike[str] | None = None) -> None:
        """Begin a save or a load of its own, at another URL if one is given; the options stay."""
        if checkpoint_id is not None and fspath(checkpoint_id) != self.store.url:
            self.store = open_store(fspath(checkpoint_id), self._storage_options)
        self.begin()

    @property
    def checkpoint_id(self) -> str:
        """The URL."""
        return self.store.url

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | PathLike[str]) -> bool:
        """Tell whether the engine can open such a URL."""
        return can_open(fspath(checkpoint_id))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the store out, which is opened anew where this goes: a spawned process has connections of its own."""
        return self.__dict__ | {"store": self.store.url, "_transfer": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.store = open_store(state["store"], self._storage_options)
        self.begin()
