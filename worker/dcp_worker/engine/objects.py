"""Items that only `torch.load` can decode: state dict entries that are no tensors, and tensors that stock DCP saved.

Nothing is decoded without `weights_only=True`. DCP's own planner decodes non-tensor entries again without it; by then
the very same bytes have passed the restricted unpickler, so they name nothing that could run.
"""

import io
import pickle
import re
import threading
from collections.abc import Sequence
from typing import Final

import torch
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.planner import LoadItemType, LoadPlanner, ReadItem

from dcp_worker.engine import arrays, conversion, tensors
from dcp_worker.engine.digest import Bytes
from dcp_worker.engine.errors import CheckpointCorrupted, StateMismatch

_ALLOWING: Final = threading.Lock()
"""What torch allows holds for the whole process: a thread that is done takes away what another one allowed too."""
_REFUSED: Final = re.compile(r"(?:GLOBAL:? |but got <class ')([\w.]+)")
"""How torch's restricted unpickler names a class that it does not know to be safe."""


def place(item: ReadItem, file: str, data: Bytes, planner: LoadPlanner, allow: Sequence[type]) -> None:
    """Decode one item and give it to the planner."""
    stream = io.BytesIO(data)  # type: ignore[arg-type]
    value = decode(item.storage_index.fqn, file, stream, allow)
    if item.type == LoadItemType.BYTE_IO:
        stream.seek(0)
        planner.load_bytes(item, stream)
        return
    if not isinstance(value, torch.Tensor):
        raise CheckpointCorrupted(
            file, f"holds a {type(value).__name__} in place of a tensor", [item.storage_index.fqn]
        )
    name = item.dest_index.fqn
    target = planner.resolve_tensor(item)
    for holder, tensor in (("the checkpoint", value), ("the state dict", target)):
        if why := tensors.fault(tensor):
            raise StateMismatch(f"{name} of {holder} {why}")
    source = narrow_tensor_by_index(value, item.storage_offsets, item.lengths)
    if target.size() != source.size():
        raise StateMismatch.of_shape(item.dest_index.fqn, tuple(source.size()), tuple(target.size()))
    with torch.no_grad():
        if not tensors.fill(name, target, source):
            conversion.copy(name, tensors.plain(source), tensors.plain(target))
    planner.commit_tensor(item, target)


def decode(name: str, file: str, stream: io.BytesIO, allow: Sequence[type] = ()) -> object:
    """Read with the restricted unpickler, arrays of numpy as stand-ins; say which class it refused, how to allow it."""
    try:
        return _restricted(stream, allow)
    except pickle.UnpicklingError as error:
        if refused := _REFUSED.search(str(error)):
            raise StateMismatch.not_allowed(name, file, refused[1]) from error
        raise CheckpointCorrupted(file, f"{name} can't be decoded: {error}", [name]) from error
    except Exception as error:  # torch trips over damaged bytes in many ways
        detail = f"{name} can't be decoded: {type(error).__name__}: {error}"
        raise CheckpointCorrupted(file, detail, [name]) from error


def _restricted(stream: io.BytesIO, allow: Sequence[type]) -> object:
    with _ALLOWING:
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            stream.seek(0)
        known = torch.serialization.get_safe_globals()
        with torch.serialization.safe_globals([*arrays.ALLOWED, *(each for each in allow if each not in known)]):
            return torch.load(stream, map_location="cpu", weights_only=True)
