"""What a planner has for the items of a plan, looked up once for all who ask."""

import io
from weakref import WeakValueDictionary

import torch
from torch.distributed.checkpoint.metadata import MetadataIndex
from torch.distributed.checkpoint.planner import SavePlanner, WriteItem


class Lookup:
    """Looks items up; a tensor that the state holds anyway is not looked up again.

    One that a planner makes for the call is let go and made again: together they may be as large as the state. From any
    thread.
    """

    def __init__(self, planner: SavePlanner) -> None:
        self.planner = planner
        self._held = WeakValueDictionary[MetadataIndex, torch.Tensor]()

    def data(self, item: WriteItem) -> torch.Tensor | io.BytesIO:
        """Return what is to be written of an item: a tensor, or the bytes of an object."""
        held = self._held.get(item.index)
        if held is not None:
            return held
        with torch.no_grad():  # of a DTensor, else, a new view each time
            found = self.planner.resolve_data(item)
        if isinstance(found, torch.Tensor):
            self._held[item.index] = found
        return found
