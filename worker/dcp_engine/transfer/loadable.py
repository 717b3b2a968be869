"""Would a load take what is saved? Found from the pickles that a save writes anyway, before its tensors travel."""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import torch
from torch.distributed.checkpoint.planner import WriteItem, WriteItemType

from dcp_engine.errors import ALLOW, CheckpointCorrupted, EngineError, UnsavableState
from dcp_engine.format import torch_zip_read
from dcp_engine.transfer import decode, payload, tensors
from dcp_engine.transfer.lookup import Lookup

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


class Examined:
    """What one rank writes of what is no plain tensor, pickled, and looked at before anything is written."""

    def __init__(self, items: Iterable[WriteItem], lookup: Lookup) -> None:
        self._items = items
        self._lookup = lookup
        self._pickled: dict[int, payload.Payload] = {}
        self._wrappers: dict[type, list[WriteItem]] = {}

    def tensors(self) -> Iterator[torch.Tensor]:
        """Give the tensors, and note which of them wrap others."""
        for item in self._items:
            if item.tensor_data is None:
                continue
            tensor = self._lookup.data(item)
            if isinstance(tensor, torch.Tensor):
                if tensors.is_wrapper(tensor):
                    self._wrappers.setdefault(type(tensor), []).append(item)
                yield tensor

    def faults(self, allow: Sequence[type]) -> dict[str, str]:
        """Pickle the objects; return the entries that no load would take as they are, each with the reason.

        Of the tensors of one class that wraps others the smallest speaks for all.

        Raises:
            UnsavableState: objects can't be pickled; it names all of them.
        """
        self._pickle()
        found: dict[str, str] = {}
        for item in self._items:
            if (one := self._pickled.get(id(item))) and (why := _fault(item.index.fqn, one, allow)):
                found[item.index.fqn] = why
        for same in self._wrappers.values():
            smallest = min(same, key=payload.size_of)
            if why := _fault(smallest.index.fqn, payload.prepare(smallest, self._lookup), allow):
                found |= {item.index.fqn: why for item in same}
        return found

    def payload(self, item: WriteItem) -> payload.Payload:
        """Return what is written of an item; of an object once."""
        return self._pickled.pop(id(item), None) or payload.prepare(item, self._lookup)

    def _pickle(self) -> None:
        unpicklable: dict[str, str] = {}
        for item in self._items:
            if item.type != WriteItemType.BYTE_IO:
                continue
            try:
                self._pickled[id(item)] = payload.prepare(item, self._lookup)
            except EngineError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a class does
                unpicklable[item.index.fqn] = f"can't be pickled: {type(error).__name__}: {error}"
        if unpicklable:
            raise UnsavableState.of(unpicklable)


def _fault(name: str, prepared: payload.Payload, allow: Sequence[type]) -> str | None:
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
