"""Would a load take what is saved? Found from the pickles that a save writes anyway, before its tensors travel."""

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from dcp_engine.errors import ALLOW, CheckpointCorrupted, EngineError, UnsavableState
from dcp_engine.format import torch_zip_read
from dcp_engine.transfer import decode, devices, tensors
from dcp_engine.transfer.file_plan import size_of
from dcp_engine.transfer.payload import Lookup, Payload

_NAMED: Final = re.compile(rb"c([\w.]{1,120}\n[\w.]{1,120})\n")
"""What may be a class in a pickle of protocol 2, or text."""
_ALWAYS_READ: Final = re.compile(
    rb"_codecs\nencode|collections\nOrderedDict|datetime\n(?:date|time|datetime|timedelta|timezone)"
    rb"|pathlib(?:\._local)?\n(?:Pure)?(?:Posix|Windows)?Path"
    rb"|torch\n\w+Storage|torch\nSize|torch\._utils\n_rebuild_tensor_v2|numpy\n(?:dtype|ndarray)"
    rb"|numpy\._?core\.multiarray\n(?:_reconstruct|scalar)|__builtin__\n(?:set|bytes|complex|bytearray|frozenset)"
)
"""Classes that are read whatever they were made with; those of which there is much."""
_DOUBTFUL: Final = re.compile(rb"X[\x02-\x08]\0\0\0[OV]\d|\x8b..\0\0", re.DOTALL)
"""What may be numpy's type of objects or fields, or a number of more than 255 bytes."""


def faults(items: Sequence[WriteItem], lookup: Lookup, allow: Sequence[type]) -> dict[str, str]:
    """Return the entries that no load would take as they are, each with the reason; every rank asks for its own.

    What is no plain tensor is pickled for that, once all that the devices still compute of the values is there. Of the
    tensors of one class that wraps others the smallest speaks for all. `lookup` keeps the objects that were pickled.

    Raises:
        UnsavableState: objects can't be pickled; it names all of them.
    """
    wrappers = _await_values(items, lookup)
    found: dict[str, str] = {}
    for item, pickled in _pickled(items, lookup):
        if why := _fault(item.index.fqn, pickled, allow):
            found[item.index.fqn] = why
    for same in wrappers:
        smallest = min(same, key=size_of)
        if why := _fault(smallest.index.fqn, lookup.payload(smallest), allow):
            found |= {item.index.fqn: why for item in same}
    return found


def _await_values(items: Iterable[WriteItem], lookup: Lookup) -> Iterable[list[WriteItem]]:
    """Wait for the devices on which the items' tensors lie; return the tensors that wrap others, by their class."""
    wrappers: dict[type, list[WriteItem]] = defaultdict(list)
    used: set[torch.device] = set()
    for item in items:
        tensor = lookup.data(item) if item.tensor_data is not None else None
        if isinstance(tensor, torch.Tensor):
            if tensors.is_wrapper(tensor):
                wrappers[type(tensor)].append(item)
            used.update(devices.of([tensor]))
    devices.synchronize(used)
    return wrappers.values()


def _pickled(items: Iterable[WriteItem], lookup: Lookup) -> list[tuple[WriteItem, Payload]]:
    """Pickle the objects."""
    pickled: list[tuple[WriteItem, Payload]] = []
    unpicklable: dict[str, str] = {}
    for item in items:
        if item.type != WriteItemType.BYTE_IO:
            continue
        try:
            pickled.append((item, lookup.pickled(item)))
        except EngineError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever a class does
            unpicklable[item.index.fqn] = f"can't be pickled: {type(error).__name__}: {error}"
    if unpicklable:
        raise UnsavableState.of(unpicklable)
    return pickled


def _fault(name: str, prepared: Payload, allow: Sequence[type]) -> str | None:
    stream = prepared.source
    if not isinstance(stream, io.BytesIO):
        return None
    try:
        pickled = torch_zip_read.pickle_in(torch_zip_read.members(stream.getbuffer()))
    except ValueError:
        return None  # a planner's own bytes, which its own counterpart reads
    named = {match[1] for match in _NAMED.finditer(pickled)}
    if all(map(_ALWAYS_READ.fullmatch, named)) and not _DOUBTFUL.search(pickled):
        return None
    try:
        decode.decode(name, "", io.BytesIO(stream.getbuffer()), allow)
    except decode.ClassesRefused as error:
        return str(error)
    except CheckpointCorrupted as error:
        why = error.message.partition("decoded: ")[2].partition("\n")[0]
        return f"can't be read back, even if its class is in {ALLOW}: {why}"
    return None
